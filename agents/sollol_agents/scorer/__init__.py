"""The scorer: holds the fleet's state, owns the waiting queue, decides what starts where and when, and says why."""
