"""One attempt after another: slots, the run on the engine, the way to the caller, the report."""
