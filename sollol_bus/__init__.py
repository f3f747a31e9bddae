"""SOLLOL Bus: the bus conventions and the client.

What is exported here is the public API; everything else may change.
"""
