"""Metrics of actors for Prometheus: what they are called, how they are counted, and a small server for them."""
