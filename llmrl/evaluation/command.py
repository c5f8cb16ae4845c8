"""The commands `llmrl credit` and `llmrl audit`: a policy's implicit reward of tokens, and of pairs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from llmrl.data.forms import COMPARISONS, DEMONSTRATIONS
from llmrl.data.prompts import load_prompts
from llmrl.errors import RecipeError, unknown_name
from llmrl.evaluation.implicit_rewards import Credited, check_tokens, credited, load_policy
from llmrl.evaluation.poisoning import Audit, audit
from llmrl.models.loading import load_tokenizer, stop_token_ids
from llmrl.models.origins import locate
from llmrl.recipe_file import load_plan
from llmrl.recipe_rows import Data, Rows
from llmrl.run_folder.reader import RunReader
from llmrl.run_folder.rows import trajectories_of
from llmrl.types import ACTOR, Group

LONGEST = 2**31
LOWEST = 3
"""The tokens of the span that is named for each completion."""


def show_credit(
    source: Path,
    policy: str,
    reference: str,
    console: Console,
    *,
    stage: str | None,
    beta: float,
    limit: int,
    page: Path | None,
    as_json: bool,
) -> None:
    """Print the implicit reward of each token of a source's completions, and write them as an HTML page."""
    found = _credited(source, policy, reference, stage=stage, beta=beta, limit=limit)
    if as_json:
        print(json.dumps([[asdict(one) | {"total": one.total} for one in group] for group in found]))
    if page is not None:
        page.write_text(_page(found), encoding="utf-8")
        if not as_json:
            console.print(f"wrote {page}", highlight=False)
    for group in found if not as_json else ():
        console.print(Text(group[0].prompt, style="dim"))
        for one in group:
            console.print(Text(f"{one.reward:+.2f}  ").append(_coloured(one)))
            console.print(Text(f"       implicit reward {one.total:+.3f}; lowest {_lowest(one)}", style="dim"))


def show_audit(
    source: Path,
    policy: str,
    reference: str,
    console: Console,
    *,
    stage: str | None,
    beta: float,
    share: float,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print the pairs whose labels a trusted policy contradicts, and what their prompts have in common."""
    groups = _credited(source, policy, reference, stage=stage, beta=beta, limit=limit)
    pairs = [sorted(group, key=lambda one: -one.reward) for group in groups if len({one.reward for one in group}) > 1]
    if not pairs:
        raise RecipeError(f"SOURCE: '{source}' has no pairs; an audit compares chosen and rejected completions")
    found = audit(
        [pair[0].total - pair[-1].total for pair in pairs],
        [pair[0].prompt_token_ids for pair in pairs],
        [(pair[0].prompt, "".join(pair[0].tokens), "".join(pair[-1].tokens)) for pair in pairs],
        share=share,
    )
    if as_json:
        print(json.dumps(found.data()))
        return
    _print_audit(found, pairs, load_tokenizer(Path(policy)), console)


def _print_audit(found: Audit, pairs: Sequence[Sequence[Credited]], tokenizer: Any, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"{len(pairs)} pairs; the model contradicts {found.contradicted:.1%} of the labels")
    say(f"{len(found.flagged)} pairs are flagged; {len(found.swapped)} have a pair that says the opposite")
    for one in found.sequences:
        text = tokenizer.decode(list(one.token_ids))
        say(f"{text!r} is in {one.flagged} flagged prompts and in {one.others} others, z {one.z:.1f}")
    for place in sorted(found.flagged, key=lambda place: found.margins[place])[:10]:
        chosen, rejected = ("".join(pairs[place][end].tokens) for end in (0, -1))
        say(
            f"pair {place}, margin {found.margins[place]:+.2f}: {pairs[place][0].prompt!r} {chosen!r} over {rejected!r}"
        )


def _credited(
    source: Path, policy: str, reference: str, *, stage: str | None, beta: float, limit: int | None
) -> list[list[Credited]]:
    folder = locate("--policy", policy)
    locate("--reference", reference)
    check_tokens(policy, reference)
    tokenizer = load_tokenizer(folder)
    groups = _groups(source, stage, limit, tokenizer)
    models = load_policy("--policy", policy), load_policy("--reference", reference)
    return credited(groups, *models, tokenizer, beta=beta)


def _groups(source: Path, stage: str | None, limit: int | None, tokenizer: Any) -> list[Group]:
    """The completions of a run's last rollouts, of a recipe's stage, or of a file of rows."""
    if source.is_dir():
        return _sampled(source, stage, limit)
    if not source.is_file():
        raise RecipeError(f"SOURCE: no file or folder '{source}'; expected rows, a recipe or a run")
    data = Data(train=Rows(path=str(source), limit=limit))
    if source.suffix in (".yaml", ".yml"):
        stages = load_plan(source).stages
        if stage is not None and stage not in stages:
            raise RecipeError(unknown_name("--stage", stage, stages, "stage"))
        rows = stages[stage or list(stages)[-1]].data.train
        data = Data(train=rows.model_copy(update={"limit": limit or rows.limit}))
    faults: list[str] = []
    for gives in (COMPARISONS, DEMONSTRATIONS):
        try:
            found = load_prompts(tokenizer, data, LONGEST, stop_token_ids=stop_token_ids(tokenizer), gives=gives)
        except RecipeError as error:
            faults += error.faults
            continue
        written = found.comparisons or {name: [one] for name, one in found.demonstrations.items()}
        if written:
            rows = [prompt for prompt in found.train if prompt.id in written]
            return [Group(one, [each.trajectory(one, ACTOR) for each in written[one.id]], ACTOR) for one in rows]
    raise RecipeError(*(faults or [f"SOURCE: '{source}' has no written completions"]))


def _sampled(run: Path, stage: str | None, limit: int | None) -> list[Group]:
    """The trajectories of the last rollouts in a run's folder, by prompt."""
    reader = RunReader(run)
    names = [name for name, _ in reader.rollout_files() if stage in (None, name.stage)]
    if not names:
        raise RecipeError(f"SOURCE: '{run}' holds no rollouts" + (f" of stage '{stage}'" if stage else ""))
    last = names[-1]
    groups: dict[str, Group] = {}
    for one in trajectories_of(reader.rollouts(stage=last.stage, step=last.step, kind=last.kind).to_pylist()):
        groups.setdefault(one.prompt.id, Group(one.prompt, [], one.author)).trajectories.append(one)
    return list(groups.values())[:limit]


def _lowest(one: Credited) -> str:
    places = one.lowest(LOWEST)
    value = sum(one.rewards[place] for place in places)
    return f"{''.join(one.tokens[place] for place in places)!r} at token {places.start}, {value:+.3f}"


def _shades(one: Credited) -> list[tuple[str, float]]:
    """Each token with its reward between -1 and 1."""
    most = max((abs(value) for value in one.rewards), default=0.0) or 1.0
    return [(token, value / most) for token, value in zip(one.tokens, one.rewards, strict=True)]


def _coloured(one: Credited) -> Text:
    """The tokens on green for a positive reward and on red for a negative one."""
    text = Text()
    for token, shade in _shades(one):
        depth = round(40 + 180 * abs(shade))
        text.append(token, style=f"white on rgb({'0,' if shade > 0 else ''}{depth},{'' if shade > 0 else '0,'}0)")
    return text


def _page(found: Sequence[Sequence[Credited]]) -> str:
    """A page that shows each token's reward when the pointer is over it."""
    lines = ["<!doctype html><meta charset=utf-8><title>Implicit token rewards</title>"]
    lines.append("<style>body{font:15px monospace;margin:2em}p{white-space:pre-wrap}span{padding:1px 0}</style>")
    for group in found:
        lines.append(f"<h4>{html.escape(group[0].prompt)}</h4>")
        for one in group:
            spans = "".join(
                f'<span title="{value:+.4f}" style="background:rgba({"0,150,0" if shade > 0 else "200,0,0"},'
                f'{abs(shade):.2f})">{html.escape(token)}</span>'
                for (token, shade), value in zip(_shades(one), one.rewards, strict=True)
            )
            lines.append(f"<p>{one.reward:+.2f} | {one.total:+.3f} | {spans}</p>")
    return "\n".join(lines)
