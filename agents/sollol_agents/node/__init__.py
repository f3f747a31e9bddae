"""The node monitor: one process beside one engine, which runs work on it and tells the fleet about it."""
