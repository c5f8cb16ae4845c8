"""Games of text, drawn from a seed, in plain Python: each takes microseconds a turn."""
