"""What a fleet costs while nobody asks it anything, and what looking at it costs."""
