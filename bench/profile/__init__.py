"""Where the processor time of a request goes, by actor, and the floor made of its parts."""
