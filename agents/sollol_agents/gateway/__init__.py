"""The gateway: Ollama's, OpenAI's and Anthropic's HTTP on one side, the bus on the other."""
