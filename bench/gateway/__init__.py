"""What the HTTP gateway adds to a request: direct to the engine, through the gateway, and through LiteLLM's proxy."""
