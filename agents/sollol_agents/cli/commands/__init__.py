"""The commands of `sollol`, one file for those that belong together."""
