"""The wire contract of SOLLOL Bus: messages, units, error codes, headers and subjects.

A leaf: it imports msgspec alone, so that any Python program can speak to the bus with it.
"""
