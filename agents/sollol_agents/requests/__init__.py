"""What can be learnt about a request by looking at it; shared by the actors that meet requests."""
