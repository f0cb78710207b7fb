"""r1mega: DeepSeek-R1's recipe on Megatron-Core and vLLM, from one CPU to H100 clusters."""

__version__ = "0.1.0"
