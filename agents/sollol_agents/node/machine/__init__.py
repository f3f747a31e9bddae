"""The engine's machine: its GPUs, processor and memory."""
