"""Explains a model's latency task by task and predicts it for other channel counts."""
