"""The node towards the fleet: its claimed id, what it tells about itself, and what it is asked to do."""
