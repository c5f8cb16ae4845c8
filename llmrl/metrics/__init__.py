"""The metrics of runs; llmrl/metrics/table.py has them all."""
