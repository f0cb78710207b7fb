"""What the tests of several processes share: ranks, models, processes."""
