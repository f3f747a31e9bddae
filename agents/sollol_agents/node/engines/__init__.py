"""Adapters to the engines that a node can drive."""
