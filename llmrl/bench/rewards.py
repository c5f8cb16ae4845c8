"""A reward that costs nothing, for llmrl and its peer alike; this file imports nothing."""


def even(completion: str) -> float:
    """The share of even digits among the completion's characters."""
    return sum(character in "02468" for character in completion) / max(1, len(completion))
