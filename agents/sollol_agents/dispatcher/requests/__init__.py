"""Requests: taken from callers, given a slot by the scorer, run on a node, failed over, and answered exactly once."""
