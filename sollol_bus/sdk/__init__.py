"""The fleet from a program's side: requests, durable jobs, batches, and typed answers."""
