"""Plays what a real engine was recorded to answer against any engine, and says where that one differs.

The recordings and their form are described in `tests/conformance/recordings/README.md`.
"""
