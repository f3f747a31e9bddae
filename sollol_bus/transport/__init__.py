"""The bus itself: one connection, requests and streams over it, and how an actor shows itself there."""
