"""What Ollama reads in a request: JSON as Go reads it, the tables of its bodies, and the words of its refusals."""
