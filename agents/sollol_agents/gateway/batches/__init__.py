"""OpenAI's files and batches over durable jobs. Everything lies in JetStream: any gateway serves it, and goes on."""
