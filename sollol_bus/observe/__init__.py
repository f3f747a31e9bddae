"""What an actor tells about its work: log lines, counts and spans."""
