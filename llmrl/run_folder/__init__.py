"""The folder of a run: one writer, one reader for every tool, and one page that says where things lie.

Only llmrl.types and llmrl.errors are imported from here, so whatever shows a run can read it.
"""
