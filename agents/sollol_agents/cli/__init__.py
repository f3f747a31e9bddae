"""The command line: `sollol`. It stands above the actors and starts them; no actor knows it."""
