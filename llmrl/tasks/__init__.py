"""Generated problems, with demonstrators and verifiers, for shipped recipes and for `llmrl prove`."""
