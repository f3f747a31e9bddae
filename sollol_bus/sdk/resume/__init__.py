"""Answers that go on: what their caller's side keeps of them, judges, and tells of the rest."""
