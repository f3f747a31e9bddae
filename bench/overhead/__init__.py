"""What the bus adds to a request: direct to the engine, over NATS alone, and over the whole path, in one run."""
