"""HTTP itself: the server, who may come in, how errors and routing are told, small bodies, counters."""
