"""The folder of a run: one writer, one reader for every tool, and one page with the layout.

Its modules import only llmrl.types and llmrl.errors, so that every tool can use them.
"""
