"""Who belongs to a fleet: its authority, the credentials that it signs, and how somebody is invited."""
