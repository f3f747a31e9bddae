"""The scenarios by which such systems are usually validated, played on the real one beside a real nginx."""
