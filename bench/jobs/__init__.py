"""Durable jobs under load."""
