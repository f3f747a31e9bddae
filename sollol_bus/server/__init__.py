"""A nats-server of our own as a child process, and the users and rights it is told."""
