"""A check's lines on the console, its faults and its warnings."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console


@dataclass
class Report:
    """A stage's lines on the console, its faults (the run would fail) and its warnings (it would go on)."""

    console: Console
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def say(self, label: str, text: str) -> None:
        """Print a label and a text."""
        first, *rest = text.splitlines() or [""]
        lines = [f"  {label:<12} {first}", *(" " * 15 + line for line in rest)]
        self.console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Add and print a warning: the run would go on, but perhaps not as intended."""
        self.warnings.append(text)
        self.console.print(f"  warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def skipped(self, what: str, why: str) -> None:
        """Print that a check could not be made, since silence would look like success."""
        self.say(what, f"NOT CHECKED: {why}")


def bytes_text(count: float) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def count_text(count: int) -> str:
    """A number of parameters or tokens, rounded: 494.0M."""
    for divisor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= divisor:
            return f"{count / divisor:.1f}{unit}"
    return str(count)
