"""Programs that nobody trusts, run where they can do no harm. docs/sandbox.md says what is stopped, and what is not."""

from llmrl.sandbox.limits import Execution, Limits, Program, SandboxError
from llmrl.sandbox.sandbox import Running, Sandbox, shared
from llmrl.sandbox.tiers import BUBBLEWRAP, NAMESPACES, PROCESS, Tier

__all__ = [
    "BUBBLEWRAP",
    "NAMESPACES",
    "PROCESS",
    "Execution",
    "Limits",
    "Program",
    "Running",
    "Sandbox",
    "SandboxError",
    "Tier",
    "shared",
]
