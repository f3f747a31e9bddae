"""Settings of commands: declared in Structs, filled from flags, environment and a TOML file."""
