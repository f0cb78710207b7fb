"""The weights' ways: HF folder to Megatron shards and back, and trainer to engine, each way proven."""
