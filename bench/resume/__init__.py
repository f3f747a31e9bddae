"""Answers that go on, held to undisturbed ones while nodes, engines and connections die."""
