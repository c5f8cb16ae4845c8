"""The forms in which public data come, told by their columns.

Each form turns a row into the columns that the recipe's keys of the same names read:

    {"instruction": "Add", "input": "1+1", "output": "2"}     {"prompt": [user: "Add\\n1+1"], "completion": "2"}
    {"chosen": [user, good], "rejected": [user, bad]}          {"prompt": [user], "chosen": [good], "rejected": [bad]}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.columns import as_json, column
from llmrl.data.files import Row
from llmrl.data.messages import SYSTEM, Messages, are_messages, messages_of
from llmrl.data.step_forms import math_shepherd, prm800k, process_bench, stepwise
from llmrl.errors import nearest, short

Example = dict[str, Any]

DEMONSTRATIONS, COMPARISONS, QUESTIONS, SOLUTIONS = "demonstrations", "comparisons", "questions", "solutions"
KEYS = {
    DEMONSTRATIONS: "prompt and completion",
    COMPARISONS: "prompt with chosen and rejected, with completion and label, or with completions and scores",
    QUESTIONS: "prompt",
    SOLUTIONS: "prompt, steps and step_labels",
}
"""What rows are read for, and the keys of data.train that name its columns."""


@dataclass(frozen=True)
class Form:
    """A form of public data.

    gives: what its rows can be read for. columns: those that a row has; absent: those that make it another form.
    read: row -> the columns that the recipe's keys read; raises ValueError for a row that is not of the form.
    gathered: rows -> the rows that `read` takes, for forms in which an example is several rows.
    components: the columns that say how good the completion is in several respects.
    """

    name: str
    gives: str
    columns: tuple[str, ...]
    read: Callable[[Row], Example]
    absent: tuple[str, ...] = ()
    gathered: Callable[[Sequence[Row]], list[Row]] = list
    components: tuple[str, ...] = ()

    def fits(self, columns: Collection[str]) -> bool:
        return set(self.columns) <= set(columns) and not set(self.absent) & set(columns)

    @property
    def title(self) -> str:
        """The name of the form, whether it holds messages or texts."""
        return self.name.replace("{shape}, ", "")

    def named(self, example: Example) -> str:
        """The name, which says of TRL's forms whether they hold messages or texts."""
        lists = any(are_messages(value) for value in example.values())
        return self.name.format(shape="conversational" if lists else "text")


def recognised(columns: Collection[str], gives: str) -> Form:
    """Return the only form of rows with these columns; raises ValueError if there is none or several."""
    possible = [form for form in FORMS if form.gives == gives]
    found = [form for form in possible if form.fits(columns)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(columns)
    if found:
        names = " and ".join(form.title for form in found)
        raise ValueError(f"the columns {listed} fit several forms: {names}; name the columns with {KEYS[gives]}")
    known = "; ".join(dict.fromkeys(", ".join(form.columns) for form in possible))
    raise ValueError(
        f"the columns {listed} are of no form that is known for {gives}{_misspelt(columns, possible)}; name the "
        f"columns with {KEYS[gives]}, or bring one of these sets of columns: {known}"
    )


def _misspelt(columns: Collection[str], possible: Sequence[Form]) -> str:
    """A hint at a form of which the rows lack one column alone, and have one that is spelt alike."""
    for form in possible:
        lacking = [name for name in form.columns if name not in columns]
        other = [name for name in columns if name not in form.columns]
        if len(lacking) == 1 and (found := nearest(lacking[0], other)):
            return f" (did you mean '{lacking[0]}' by '{found}'?)"
    return ""


def _conversation(name: str) -> Callable[[Row], Example]:
    """A whole conversation in one column, whose end is the completion."""

    def read(row: Row) -> Example:
        whole = _with_system(row, _answered(_listed(row, name)))
        return _with_tools(row, {"prompt": whole, "completion": whole})

    return read


def _labelled(read: Callable[[Row], Example], name: str) -> Callable[[Row], Example]:
    """The same form with a label beside the completion."""
    return lambda row: read(row) | {"label": row[name]}


def _completion(prompt: str, completion: str) -> Callable[[Row], Example]:
    return lambda row: _with_tools(row, {"prompt": row[prompt], "completion": row[completion]})


def _alpaca_prompt(row: Row) -> Messages:
    """The instruction and its input as one question, after the system prompt and the history."""
    history = [
        {"role": role, "content": text}
        for exchange in as_json(row.get("history")) or ()
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]
    asked = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
    return _with_system(row, [*history, {"role": "user", "content": asked}])


def _alpaca(row: Row) -> Example:
    return {"prompt": _alpaca_prompt(row), "completion": row["output"]}


def _alpaca_pair(row: Row) -> Example:
    return {"prompt": _alpaca_prompt(row), "chosen": row["chosen"], "rejected": row["rejected"]}


def _sharegpt_pair(row: Row) -> Example:
    """The conversation so far, and two messages that go on with it."""
    sides = {side: as_json(row[side]) for side in ("chosen", "rejected")}
    lists = {side: [value] if isinstance(value, Mapping) else value for side, value in sides.items()}
    return _with_tools(row, {"prompt": _with_system(row, _listed(row, "conversations")), **lists})


def _explicit(name: str) -> Callable[[Row], Example]:
    """A prompt and two completions, which may repeat the prompt: it is asked once."""

    def read(row: Row) -> Example:
        asked, sides = row[name], _sides(row)
        if not all(are_messages(side) for side in sides.values()):
            return {"prompt": _with_system(row, asked) if row.get("system") else asked, **sides}
        asked = messages_of(asked) if are_messages(asked) else [{"role": "user", "content": str(asked)}]
        asked = _with_system(row, asked)
        shared, parted = _parted(sides)
        start = 0 if asked[0]["role"] in SYSTEM else sum(one["role"] in SYSTEM for one in shared[:1])
        repeats = shared[start : start + len(asked)] == asked
        found = {"prompt": shared, **parted} if repeats else {"prompt": asked, **sides}
        return _with_tools(row, found)

    return read


def _implicit(row: Row) -> Example:
    """Two whole conversations, whose common beginning is the prompt; two texts, which have no prompt."""
    sides = _sides(row)
    if not all(are_messages(side) for side in sides.values()):
        return sides
    shared, parted = _parted(sides)
    if not shared:
        raise ValueError("chosen and rejected begin with different messages, so there is no prompt")
    return _with_tools(row, {"prompt": shared, **parted})


def _help_steer(prompt: str, responses: tuple[str, str], strength: str) -> Callable[[Row], Example]:
    """Two responses and how much better the second one is, negative if the first one is better."""

    def read(row: Row) -> Example:
        better = row[strength]
        if not isinstance(better, int | float):
            raise ValueError(f"{strength}: expected a number, got {short(better)}")
        completions = [row[name] for name in responses]
        return {"prompt": row[prompt], "completions": completions, "scores": [max(-better, 0), max(better, 0)]}

    return read


def _ranked(row: Row) -> Example:
    return {"prompt": row["prompt"], "completions": row["completions"], "scores": row["scores"]}


def _sampled_groups(rows: Sequence[Row]) -> list[Row]:
    """Groups of a run's rollouts, each as one row of ranked completions.

    Evaluations are left out, and so are completions that failed, were cut short or are one turn of several, and groups
    of which fewer than two completions are left.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        whole = row["failure"] is None and row["stop_reason"] == "stop" and len(row["turns"]) == 1
        if row["kind"] == "train" and whole:
            key = tuple(row[name] for name in ("stage", "step", "prompt_id", "author", "compared"))
            groups.setdefault(key, []).append(row)
    return [
        {
            "prompt": group[0]["prompt"],
            "answer": group[0]["answer"],
            "completions": [row["completion"] for row in group],
            "scores": [row["reward"] for row in group],
        }
        for group in groups.values()
        if len(group) > 1
    ]


def _verl(row: Row) -> Example:
    return {"prompt": row["prompt"], "answer": column(row, "reward_model.ground_truth")}


def _listed(row: Row, name: str) -> Messages:
    value = as_json(row[name])
    if not are_messages(value):
        raise ValueError(f"{name}: expected a list of messages, got {short(value)}")
    return messages_of(value)


def _answered(messages: Messages) -> Messages:
    """The conversation up to the assistant's last message."""
    last = max((n for n, one in enumerate(messages) if one["role"] == "assistant"), default=None)
    if last is None:
        raise ValueError("no message is the assistant's, so there is nothing to imitate")
    return messages[: last + 1]


def _sides(row: Row) -> Example:
    found = {side: as_json(row[side]) for side in ("chosen", "rejected")}
    if not all(are_messages(value) for value in found.values()):
        return {side: row[side] for side in found}
    return {side: messages_of(value) for side, value in found.items()}


def _parted(sides: Mapping[str, Messages]) -> tuple[Messages, dict[str, Messages]]:
    """The messages that two conversations begin with, up to an answer of the assistant's, and how each goes on."""
    one, other = sides.values()
    shorter = min(len(one), len(other))
    length = next((n for n in range(shorter) if one[n] != other[n]), shorter)
    while length and (length == shorter or one[length]["role"] != "assistant"):
        length -= 1
    return one[:length], {side: value[length:] for side, value in sides.items()}


def _with_system(row: Row, asked: Any) -> Messages:
    """The question as messages, after the row's system prompt if it has one."""
    messages = asked if isinstance(asked, Sequence) and not isinstance(asked, str) else [_user(asked)]
    system = row.get("system")
    return [{"role": "system", "content": str(system)}, *messages] if system else list(messages)


def _user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": str(text)}


def _with_tools(row: Row, example: Example) -> Example:
    return example | ({"tools": row["tools"]} if "tools" in row else {})


_PAIR = ("chosen", "rejected")
_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
FORMS = (
    Form("TRL messages", DEMONSTRATIONS, ("messages",), _conversation("messages"), ("label", "prompt")),
    Form("UltraChat, a prompt and the messages that begin with it", DEMONSTRATIONS, ("prompt", "messages"),
         _conversation("messages"), ("label", "completion")),
    Form("TRL {shape}, prompt and completion", DEMONSTRATIONS, ("prompt", "completion"),
         _completion("prompt", "completion"), ("label", "completions", "messages")),
    Form("LLaMA-Factory alpaca", DEMONSTRATIONS, ("instruction", "output"), _alpaca, ("kto_tag", "label")),
    Form("ShareGPT", DEMONSTRATIONS, ("conversations",), _conversation("conversations"), ("kto_tag", *_PAIR)),
    Form("OpenRLHF input and output", DEMONSTRATIONS, ("input", "output"), _completion("input", "output"),
         ("instruction", "label")),
    Form("TRL {shape}, explicit prompt", COMPARISONS, ("prompt", *_PAIR), _explicit("prompt"), ("conversations",)),
    Form("TRL {shape}, implicit prompt", COMPARISONS, _PAIR, _implicit,
         ("prompt", "input", "instruction", "question", "conversations")),
    Form("OpenRLHF input, chosen and rejected", COMPARISONS, ("input", *_PAIR), _explicit("input"),
         ("instruction", "prompt", "question", "conversations")),
    Form("Orca question, chosen and rejected", COMPARISONS, ("question", *_PAIR), _explicit("question"),
         ("instruction", "input", "prompt", "conversations")),
    Form("LLaMA-Factory alpaca pairs", COMPARISONS, ("instruction", *_PAIR), _alpaca_pair,
         ("prompt", "conversations")),
    Form("ShareGPT pairs", COMPARISONS, ("conversations", *_PAIR), _sharegpt_pair, ("prompt",)),
    Form("TRL {shape}, unpaired", COMPARISONS, ("prompt", "completion", "label"),
         _labelled(_completion("prompt", "completion"), "label"), _PAIR),
    Form("OpenRLHF input, output and label", COMPARISONS, ("input", "output", "label"),
         _labelled(_completion("input", "output"), "label"), ("instruction", *_PAIR)),
    Form("LLaMA-Factory alpaca with kto_tag", COMPARISONS, ("instruction", "output", "kto_tag"),
         _labelled(_alpaca, "kto_tag"), _PAIR),
    Form("ShareGPT with kto_tag", COMPARISONS, ("conversations", "kto_tag"),
         _labelled(_conversation("conversations"), "kto_tag"), _PAIR),
    Form("messages with label", COMPARISONS, ("messages", "label"), _labelled(_conversation("messages"), "label"),
         (*_PAIR, "completion")),
    Form("ranked completions", COMPARISONS, ("prompt", "completions", "scores"), _ranked, _PAIR),
    Form("HelpSteer2 preference", COMPARISONS, ("prompt", "response_1", "response_2", "preference_strength"),
         _help_steer("prompt", ("response_1", "response_2"), "preference_strength"), _PAIR),
    Form("HelpSteer3 preference", COMPARISONS, ("context", "response1", "response2", "overall_preference"),
         _help_steer("context", ("response1", "response2"), "overall_preference"), _PAIR),
    Form("llmrl's rollouts", COMPARISONS, ("prompt_id", "completion", "reward", "turns", "stop_reason"), _ranked,
         gathered=_sampled_groups),
    Form("HelpSteer attributes", COMPARISONS, ("prompt", "response", *_ATTRIBUTES), _completion("prompt", "response"),
         (*_PAIR, "completion"), components=_ATTRIBUTES),
    Form("verl", QUESTIONS, ("prompt", "reward_model"), _verl),
    Form("TRL {shape}, stepwise", SOLUTIONS, ("prompt", "completions", "labels"), stepwise),
    Form("PRM800K", SOLUTIONS, ("question", "label"), prm800k, ("prompt", "input")),
    Form("Math-Shepherd", SOLUTIONS, ("input", "label"), math_shepherd, ("prompt", "output", "question")),
    Form("ProcessBench", SOLUTIONS, ("problem", "steps", "label"), process_bench, ("prompt", "input", "question")),
)  # fmt: skip
"""Every form. Of one purpose, no two fit the same columns unless a row is ambiguous."""
