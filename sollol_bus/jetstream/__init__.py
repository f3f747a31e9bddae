"""What JetStream keeps: streams, buckets, consumers, offices, and outcomes on their way there."""
