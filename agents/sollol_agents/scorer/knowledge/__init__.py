"""What is known and believed, each piece by itself: speeds, lengths, demand, reliability, breakers, caches."""
