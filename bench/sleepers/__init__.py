"""A fleet that sleeps while nobody needs it, beside one that is always on, over a day in virtual time."""
