"""What the scorer in office does besides deciding: operators, succession, preloading, answers about the fleet."""
