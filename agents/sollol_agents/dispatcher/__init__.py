"""The dispatcher: takes requests, gets them a slot, hands them to a node, fails over. It never sees a token."""
