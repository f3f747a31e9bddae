"""A played world in which one answer goes on."""
