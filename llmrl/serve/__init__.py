"""`llmrl serve`: a reward model behind HTTP."""
