"""Holds an agent of a node, in whatever language, to the protocol of nodes."""
