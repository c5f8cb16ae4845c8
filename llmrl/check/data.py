"""A stage's data: read, rendered as the model will see it, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from llmrl.check.overlap import seeds_overlap, way_out
from llmrl.check.report import Report
from llmrl.check.writing import golds_of
from llmrl.columns import column
from llmrl.data.chat import Conversation
from llmrl.data.datasets import load_rows
from llmrl.data.faulty_rows import named, repeated
from llmrl.data.messages import SYSTEM
from llmrl.data.prompt_builder import PromptBuilder
from llmrl.data.prompts import OVERLAP, LoadedPrompts, asked
from llmrl.data.transforms import read_rows
from llmrl.data.written import Written
from llmrl.errors import RecipeError, gathered, short
from llmrl.models.loading import character_tokenizer
from llmrl.recipe import Recipe
from llmrl.recipe_rows import Rows
from llmrl.resolve import Pieces, read_for
from llmrl.run.models import Origin
from llmrl.run.sampling import load_stage_prompts
from llmrl.templates import RowTemplate, templates_of
from llmrl.types import Prompt

SHOWN_CHARACTERS = 2000
ROWS_MADE_TWICE = 3
CONVERSATIONS = 3


def check_data(recipe: Recipe, origin: Origin, report: Report) -> LoadedPrompts:
    """Load and render every row, and show the first ones; raises RecipeError for a row that cannot be rendered."""
    prompts = load_stage_prompts(recipe, origin)
    data, limit = recipe.data, recipe.rollout.max_prompt_tokens
    for part, found in (("train", prompts.train), ("eval", prompts.eval)):
        source = prompts.sources.get(part)
        if source is None:
            report.say("data.eval", "none: nothing is measured on held-out prompts")
            continue
        lengths = [len(prompt.token_ids) for prompt in found]
        if part in prompts.forms:
            report.say(f"data.{part}", f"form: {prompts.forms[part]}")
        report.say(f"data.{part}", f"{len(found)} prompts of {min(lengths)} to {max(lengths)} tokens (at most {limit})")
        shared = prompts.dropped[part][OVERLAP]
        if shared and data.eval and seeds_overlap(data.train, data.eval):
            report.warn(f"data.eval: {shared} training rows are its rows; {way_out('data.eval.seed', data.train)}")
        told = prompts.told_dropped(part)
        if told and prompts.dropped[part].total() == shared:
            report.say("", told)
        elif told:
            report.warn(f"data.{part}: {told}")
        _count_repeated(source, found, prompts.questions, part, report)
        _count_unanswered(found, prompts.demonstrations, part, report)
        if source.chat:
            _check_conversation(found, origin, part, report)
            _check_system_prompt(source, found, part, report)
        _show(found[0], prompts, origin, report)
        if source.task is not None and getattr(data, part).transform is None:
            _check_repeated(source, found, part, report)
        _check_answers(found, prompts.demonstrations, origin, part, report)
    prompts.check_step(recipe.rollout.prompts_per_step)
    if recipe.training.epochs is None and prompts.in_an_epoch < recipe.rollout.prompts_per_step:
        asked = recipe.rollout.prompts_per_step
        report.warn(f"rollout.prompts_per_step {asked}, but train has {prompts.in_an_epoch}: a step repeats prompts")
    return prompts


def check_sources(recipe: Recipe, faults: list[str]) -> None:
    """Check files, rows, columns and templates, which need no tokenizer of the model."""
    stand_in: Any = character_tokenizer("01")
    stand_in.chat_template = "{{ messages }}"  # nothing is rendered
    for part, source in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        if source is not None:
            with gathered(faults):
                found = read_rows(source, load_rows(source, part), part, read_for(recipe))
                PromptBuilder(stand_in, found.source, found.rows, part=part)


def check_providers(prompts: LoadedPrompts, pieces: Pieces) -> None:
    """Raises RecipeError if a provider's template names a column that is missing or empty in a row of train."""
    read = pieces.algorithm.measured(updates=1, sampled=True)
    faults = []
    providers = (pieces.providers[name] for name in read & pieces.providers.keys())
    for provider in {id(provider): provider for provider in providers}.values():
        for setting, template in templates_of(provider).items():
            faults += _template_faults(f"providers.{provider.name}.{setting}", template, prompts.train)
    if faults:
        raise RecipeError(*faults)


def _template_faults(key: str, template: str, prompts: Sequence[Prompt]) -> list[str]:
    """The first fault of a template, or of the values that it names in the rows."""
    filled = RowTemplate(template)
    try:
        filled.check(_columns_of_all(prompts))
        for name in filled.columns:
            empty = [prompt.id for prompt in prompts if column(prompt.row, name) in (None, "")]
            if empty:
                return [f"{key}: column '{name}' is empty in {len(empty)} rows, the first is {empty[0]}"]
    except ValueError as error:
        return [f"{key}: {error}"]
    return []


def _columns_of_all(prompts: Sequence[Prompt]) -> list[str]:
    everywhere = set.intersection(*(set(prompt.row) for prompt in prompts))
    return [name for name in prompts[0].row if name in everywhere]


def _show(prompt: Prompt, prompts: LoadedPrompts, origin: Origin, report: Report) -> None:
    """Print the first prompt with its special tokens, and its written completions or gold answer."""
    tokenizer: Any = origin.tokenizer
    written = [prompts.demonstrations[prompt.id]] if prompt.id in prompts.demonstrations else []
    written += prompts.comparisons.get(prompt.id, []) + prompts.solutions.get(prompt.id, [])
    report.say("first prompt", f"{len(prompt.token_ids)} tokens, {prompt.id}")
    report.say("", _shown(tokenizer.decode(list(prompt.token_ids), skip_special_tokens=False)))
    for one in written:
        reward = f", reward {one.reward:g}" if prompt.id in prompts.comparisons else ""
        report.say("followed by", f"{_spans(tokenizer, one)} ({len(one.token_ids)} tokens{reward})")
    if not written:
        report.say("answer", _shown(prompt.row.get("answer")))


def _spans(tokenizer: Any, written: Written) -> str:
    """The texts of a completion's spans, each with its own reward; those that are not trained on are in parentheses."""
    told = []
    for span in written.spans:
        text = _shown(tokenizer.decode(span.token_ids))
        label = "" if span.reward is None else f" [{span.reward:g}]"
        told.append((text if span.trained else f"({text})") + label)
    return " ".join(told)


def _shown(value: Any) -> str:
    text = repr(value)
    left = len(text) - SHOWN_CHARACTERS
    return text if left <= 0 else f"{text[:SHOWN_CHARACTERS]} and {left} characters more"


def _check_answers(
    prompts: Sequence[Prompt], demonstrations: Mapping[str, object], origin: Origin, part: str, report: Report
) -> None:
    """Warn of gold answers with characters that the vocabulary lacks: no completion could give them."""
    tokenizer: Any = origin.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    answers = [gold for prompt in prompts if prompt.id not in demonstrations for gold in golds_of(prompt)]
    beyond = [a for a in answers if unknown in tokenizer.encode(a, add_special_tokens=False)]
    if beyond:
        rows = f"{len(beyond)} of {len(answers)} answers"
        report.warn(f"data.{part}: the model's vocabulary cannot write {rows}, such as {beyond[0][:80]!r}")


def _count_repeated(
    source: Rows, prompts: Sequence[Prompt], questions: Mapping[str, str], part: str, report: Report
) -> None:
    """Warn of rows that ask what an earlier row asks; tasks, comparisons and solutions ask some questions twice."""
    again, contrary = repeated(prompts, lambda one: asked(questions[one.id], one.row))
    text = f"{len(again)} of {len(prompts)} rows ask what an earlier row asks: {named(again)}"
    if contrary:
        text += f"; {len(contrary)} of them with another answer: {named(contrary)}"
    if source.prompt is None or source.compares or source.steps:
        return
    if again and source.task is not None:
        report.say("", text)
    elif again:
        report.warn(f"data.{part}: {text}")


def _count_unanswered(prompts: Sequence[Prompt], demonstrations: Mapping[str, Any], part: str, report: Report) -> None:
    """Warn of rows without an answer among others that have one."""
    asked = [prompt for prompt in prompts if prompt.id not in demonstrations]
    lacking = [prompt for prompt in asked if prompt.row.get("answer") in (None, "", [])]
    if lacking and len(lacking) < len(asked):
        report.warn(f"data.{part}.answer: null or empty in {len(lacking)} of {len(asked)} rows: {named(lacking)}")


def _check_conversation(found: Sequence[Prompt], origin: Origin, part: str, report: Report) -> None:
    """Refuse a chat template that leaves out what is asked; warn of one that leaves the turn's opening to the model."""
    header, refused = "", ""
    conversations = [
        Conversation(origin.tokenizer, cast(Any, list(prompt.messages or ()))) for prompt in found[:CONVERSATIONS]
    ]
    for prompt, conversation in zip(found, conversations, strict=False):
        try:
            dropped, unopened = conversation.dropped, conversation.unopened
        except ValueError as error:  # a template that refuses what stands in for the row's texts
            refused = f"{prompt.id}: {error}"
            continue
        if dropped is not None:
            asks = dropped is conversation.messages[-1]
            name = "question" if asks else "system prompt" if dropped["role"] in SYSTEM else "user's earlier message"
            raise RecipeError(
                f"data.{part}.chat: {prompt.id}: the chat template drops the {name} {short(dropped['content'])}; "
                f"all that it renders is {short(conversation.prompt)}"
            )
        if unopened:
            header = unopened
    if refused:
        report.skipped(f"data.{part}.chat", refused)
    if header:
        report.warn(
            f"data.{part}.chat: the chat template does not read add_generation_prompt, so a prompt ends before "
            f"{header!r}, which opens an answer, and the model has to write that first"
        )


def _check_system_prompt(source: Rows, prompts: Sequence[Prompt], part: str, report: Report) -> None:
    """Warn of a system prompt where some or all rows have a system message of their own, which stands for it."""
    if source.system_prompt is None:
        return
    own = [prompt for prompt in prompts if (prompt.messages or ({},))[0].get("content") != source.system_prompt]
    if own:
        rows = "every row has" if len(own) == len(prompts) else f"{len(own)} of {len(prompts)} rows have"
        effect = "has no effect" if len(own) == len(prompts) else "reaches the other rows alone"
        report.warn(f"data.{part}.system_prompt {effect}: {rows} a system message in data.{part}.prompt")


def _check_repeated(source: Rows, prompts: Sequence[Prompt], part: str, report: Report) -> None:
    """Warn of a task that gives other rows each time, as one that does not draw them from its seed alone."""
    again = load_rows(source.model_copy(update={"limit": ROWS_MADE_TWICE}), part)
    rows = {f"{part}:{number}": row for number, row in enumerate(again)}
    made = [prompt for prompt in prompts if prompt.id in rows]
    if any({**rows[prompt.id], "answer": None} != {**prompt.row, "answer": None} for prompt in made):
        others = "a resumed run and the processes of one run would each see others; write the rows to a file"
        report.warn(f"data.{part}.task: {source.task} gives other rows each time that it makes them: {others}")
