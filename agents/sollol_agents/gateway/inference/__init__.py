"""Inference over HTTP: one request becomes one call on the bus, and its messages the answer."""
