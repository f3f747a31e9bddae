"""One request against every node: who may serve it, and what each candidate would cost."""
