"""The training step: sources, roles, learners, objectives."""
