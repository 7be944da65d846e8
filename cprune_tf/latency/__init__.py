"""What a model's latency is made of, and what it would be with other channel counts."""
