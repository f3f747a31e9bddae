"""The registrar: keeps the fleet's authority, admits whoever was invited, and revokes."""
