"""What callers notice of faults: processes that stop, die or restart, links that break, clocks that jump."""
