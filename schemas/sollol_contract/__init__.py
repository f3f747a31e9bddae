"""Makes the documents of the wire contract from the Structs and the subject table; not part of the distribution."""
