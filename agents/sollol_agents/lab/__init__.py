"""What no fleet needs: engines to practise on, and what tests and benchmarks stand on."""
