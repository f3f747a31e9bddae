"""Requests of one dialect in the words of another, and the answers back."""
