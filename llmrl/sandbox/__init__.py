"""The sandbox runs untrusted programs where they can do no harm; docs/sandbox.md lists what it stops and what not."""

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
