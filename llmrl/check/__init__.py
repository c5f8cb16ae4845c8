"""Everything that can be checked before a weight loads."""

from llmrl.check.plan import check_plan

__all__ = ["check_plan"]
