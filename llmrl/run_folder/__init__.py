"""The folder that a run writes, and the one reader of it that every tool uses."""
