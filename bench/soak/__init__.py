"""What grows while the system works for a long time: memory, descriptors, threads, processor time, and what is kept."""
