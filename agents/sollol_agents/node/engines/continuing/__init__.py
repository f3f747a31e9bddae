"""Answers that go on: what other attempts said is put behind the prompt, and the engine completes it.

The prompt is the one that the engine itself renders, and the text behind it is completed raw: that gives the rest of
the undisturbed answer, byte for byte, wherever a stream was cut between two of its pieces. What the engine's own
reading of a chat does beyond that, taking blanks off, parting thoughts from text, reading calls of tools, is done here
for the rest, or refused by a sentence.
"""
