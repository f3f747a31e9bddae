"""The nodes as the scorer sees them, what runs there, and what outcomes teach about them."""
