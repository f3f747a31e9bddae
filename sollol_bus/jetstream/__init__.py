"""What JetStream keeps: streams, buckets, consumers, leases, and outcomes on their way there."""
