"""Benchmarks: they print ratios within one run, because machines are noisy; `results/` keeps figures with commands."""
