"""Durable jobs: taken from the queue by dispatchers, ordered by the scorer, answered exactly once.

A job is a request whose answer goes to its dispatcher, which stores it. Safety: a result is published only where
none is stored yet, and the job's message is acked only after result and state are stored; so whatever is killed at
whatever moment, the job is run again or has its one result, and never a second one. The price is that the work
itself may be done twice after a kill. Liveness: unacked messages come again after `job_ack_wait_s`.

In here a job's id is its reference, with its owner in front (`sollol_schemas.owners`): what two users call by one name
are two jobs, in every store. What is told to the owner, and its results and events, say the id alone.
"""
