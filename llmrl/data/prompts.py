"""From rows to prompts and demonstrations: templates, few-shot examples, chat rendering, decontamination.

Text is rendered first and tokenized once. A demonstration is the ideal completion of the prompt's exact tokens, its
stop token included:

    plain   prompt  "3+4="                              demonstration  "7" <eos>
    chat    prompt  "<user>3+4=<eos><assistant>"        demonstration  "7" <eos>      (the template's own turn end)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from llmrl.columns import as_json
from llmrl.data.chat import Conversation
from llmrl.data.datasets import load_rows
from llmrl.data.faulty_rows import of_every_row, refuse_dropped
from llmrl.data.files import Row
from llmrl.data.messages import SYSTEM, Message, Messages, transcript
from llmrl.data.row_values import RowValue
from llmrl.errors import RecipeError, short
from llmrl.recipe import Data, Rows
from llmrl.rewards.golds import EXPECTED, gold_texts
from llmrl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_ANSWER = "answer"


@dataclass(frozen=True)
class LoadedPrompts:
    """Prompts ready to sample, and the numbers of rows that were left out.

    demonstrations: prompt id -> token ids, for every prompt of a source that names a completion. comparisons: prompt id
    -> the row's completions, for every prompt of a source that names chosen and rejected ones. questions: prompt id
    -> the prompt before system prompt, examples and chat template. dropped_long: training rows over the token limits;
    dropped_overlap: training rows whose question is also asked in eval; dropped_long_eval: eval rows over the limits.
    """

    train: list[Prompt]
    eval: list[Prompt] = field(default_factory=list)
    demonstrations: dict[str, list[int]] = field(default_factory=dict)
    comparisons: dict[str, list[Written]] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)
    dropped_long: int = 0
    dropped_overlap: int = 0
    dropped_long_eval: int = 0

    def graded(self, *, samples: bool) -> list[Prompt]:
        """The prompts whose answers rewards grade: those of eval, and of train where the stage samples."""
        return [*(self.train if samples else ()), *self.eval]


def load_prompts(
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    max_prompt_tokens: int,
    *,
    max_completion_tokens: int | None = None,
    stop_token_ids: Sequence[int] = (),
) -> LoadedPrompts:
    """Load and render `data`; a training row whose question also occurs in eval is dropped.

    Duplicates inside train stay. Nothing is truncated: prompts longer than `max_prompt_tokens` and
    demonstrations longer than `max_completion_tokens` are dropped and counted.
    Raises RecipeError for any row that cannot be rendered, or if no row is left.
    """
    parts = {"train": data.train} | ({"eval": data.eval} if data.eval else {})
    builders = {
        part: PromptBuilder(tokenizer, source, load_rows(source, part), part=part, stop_token_ids=stop_token_ids)
        for part, source in parts.items()
    }
    asked_in_eval = {question.strip() for question in builders["eval"].questions} if data.eval else set()
    prompts: dict[str, list[Prompt]] = {"train": [], "eval": []}
    dropped_long, dropped_overlap = {"train": 0, "eval": 0}, 0
    demonstrations: dict[str, list[int]] = {}
    comparisons: dict[str, list[Written]] = {}
    for part, builder in builders.items():
        built, dropped_long[part] = builder.build(max_prompt_tokens)
        for prompt in built:
            if part == "train" and builder.question(prompt).strip() in asked_in_eval:
                dropped_overlap += 1
                continue
            if parts[part].completion is not None:
                demonstration = builder.demonstration(prompt)
                if max_completion_tokens is not None and len(demonstration) > max_completion_tokens:
                    dropped_long[part] += 1
                    continue
                demonstrations[prompt.id] = demonstration
            if part == "train" and parts[part].chosen is not None:
                comparisons[prompt.id] = builder.comparison(prompt)
            prompts[part].append(prompt)
        if not prompts[part]:
            overlapping = f", {dropped_overlap} are asked in eval too" if part == "train" else ""
            limits = "rollout.max_prompt_tokens or rollout.max_completion_tokens"
            raise RecipeError(f"data.{part}: no rows left: {dropped_long[part]} are over {limits}{overlapping}")
    questions = {prompt.id: builders[part].question(prompt) for part, found in prompts.items() for prompt in found}
    for part, found in prompts.items():
        refuse_dropped(found, questions, f"data.{part}")
    return LoadedPrompts(
        prompts["train"],
        prompts["eval"],
        demonstrations,
        comparisons,
        questions,
        dropped_long["train"],
        dropped_overlap,
        dropped_long["eval"],
    )


@dataclass(frozen=True)
class Written:
    """A completion that a row brings, as tokens up to a stop token, and its reward."""

    token_ids: list[int]
    reward: float


class PromptBuilder:
    """Renders `rows` as `source` says; raises RecipeError naming the key, row and column that cannot be used.

    part: "train" or "eval", the first half of every Prompt.id ("train:17" is row 17 of the source).
    stop_token_ids: the tokens that end a completion; default: the tokenizer's end-of-sequence token.
    questions: each row's rendered prompt before system prompt, examples and chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: Rows,
        rows: Sequence[Row],
        *,
        part: str = "train",
        stop_token_ids: Sequence[int] = (),
    ):
        self.tokenizer = tokenizer
        self.source = source
        self.rows = rows
        self.part = part
        self.key = key = f"data.{part}"
        self.stop_token_ids = frozenset(stop_token_ids or [cast(int, tokenizer.eos_token_id)])
        if source.chat and tokenizer.chat_template is None:
            raise RecipeError(f"{key}.chat: true, but the tokenizer has no chat template; set model.chat_template")
        columns = {column: None for row in rows for column in row}
        self._prompt = RowValue(source.prompt, columns, f"{key}.prompt")
        self._completion = RowValue(source.completion, columns, f"{key}.completion") if source.completion else None
        compared = {"chosen": source.chosen, "rejected": source.rejected}
        self._compared = {name: RowValue(spec, columns, f"{key}.{name}") for name, spec in compared.items() if spec}
        self._tool_list = RowValue(source.tools, columns, f"{key}.tools") if source.tools else None
        # the default column may be absent: from rows to imitate, or from rows of a task whose reward reads others
        self._may_lack_answer = source.answer == DEFAULT_ANSWER and source.answer_after is None
        has_answer = source.answer is not None and (source.answer in columns or not self._may_lack_answer)
        self._answer = RowValue(cast(str, source.answer), columns, f"{key}.answer") if has_answer else None
        self._asked = of_every_row(rows, self._question, part, f"{key}.prompt")
        self.questions = [asked if isinstance(asked, str) else transcript(asked) for asked in self._asked]
        self._examples, self._first = self._few_shot()

    def build(self, max_prompt_tokens: int) -> tuple[list[Prompt], int]:
        """Every row's prompt except the rows used as examples, and how many were too long and left out."""
        prompts = []
        for index in range(self._first, len(self.rows)):
            text = self._text(index)
            token_ids = self._encode(text)
            self._refuse_unknown(token_ids, text, f"{self.key}.prompt", index)
            if len(token_ids) <= max_prompt_tokens:
                messages = tuple(self._conversation(index).messages) if self.source.chat else None
                row = self._with_answer(index)
                prompts.append(Prompt(f"{self.part}:{index}", tuple(token_ids), text, row, messages))
        return prompts, len(self.rows) - self._first - len(prompts)

    def question(self, prompt: Prompt) -> str:
        """The rendered prompt of one row, before system prompt, examples and chat template."""
        return self.questions[_index(prompt)]

    def demonstration(self, prompt: Prompt) -> list[int]:
        """The tokens that should follow `prompt.token_ids`: the row's completion up to its stop token."""
        if self._completion is None:
            raise RecipeError(f"{self.key}.completion: required for demonstrations, and missing")
        return self._following(prompt, self._completion)

    def comparison(self, prompt: Prompt) -> list[Written]:
        """The row's chosen completion, of reward 1, and its rejected one, of reward 0."""
        rewards = {"chosen": 1.0, "rejected": 0.0}
        return [Written(self._following(prompt, value), rewards[name]) for name, value in self._compared.items()]

    def _following(self, prompt: Prompt, completion: RowValue) -> list[int]:
        """The tokens of a column's completion that follow `prompt.token_ids`, up to its stop token."""
        key, index = completion.key, _index(prompt)
        said = self._said(self.rows[index], prompt.id, completion)
        text = said["content"]
        if self.source.chat:
            try:
                text = self._conversation(index).answer(said)
            except ValueError as error:
                raise RecipeError(f"{key}: {prompt.id}: {error}") from None
        token_ids = self._continue(prompt, text)
        self._refuse_unknown(token_ids, text, key, index)
        ends = [position for position, token in enumerate(token_ids) if token in self.stop_token_ids]
        return token_ids[: ends[0] + 1] if ends else [*token_ids, cast(int, self.tokenizer.eos_token_id)]

    def _with_answer(self, index: int) -> Row:
        row = self.rows[index]
        if self._answer is None or (self._may_lack_answer and DEFAULT_ANSWER not in row):
            return row
        return {**row, "answer": self._resolved_answer(row, f"{self.part}:{index}")}

    def _resolved_answer(self, row: Row, place: str) -> Any:
        if self._answer is None:
            return row.get("answer")
        marker = self.source.answer_after
        if marker is None:
            return self._answer.value(row, place)
        answer = self._answer.text(row, place)
        _, found, after = answer.rpartition(marker)
        if not found:
            raise RecipeError(f"{self.key}.answer_after: {place}: no '{marker}' in its answer {short(answer)}")
        return after.strip()

    def _question(self, row: Row, place: str) -> str | Messages:
        """The row's question: text, or messages without the answer that `completion` names in the same list."""
        asked, where = self._prompt.text_or_messages(row, place), f"{self._prompt.key}: {place}"
        if isinstance(asked, str):
            if not asked.strip():
                raise RecipeError(f"{where}: empty, so nothing is asked")
            return asked
        if not self.source.chat:
            raise RecipeError(f"{where}: a list of messages needs {self.key}.chat: true")
        if asked[-1]["role"] == "assistant":
            if self._completion is None or self._completion.text_or_messages(row, place) != asked:
                raise RecipeError(
                    f"{where}: its last message is the assistant's, which leaves nothing to answer; to leave that "
                    f"message out, and to imitate it, set {self.key}.completion to {self.source.prompt!r} too"
                )
            asked = asked[:-1]
        if not any(message["content"].strip() for message in asked if message["role"] not in SYSTEM):
            raise RecipeError(f"{where}: no message says anything to answer")
        return asked

    def _said(self, row: Row, place: str, completion: RowValue) -> Message:
        """The assistant's message of a column: of a list of messages the last, where the others are the prompt's."""
        said = completion.text_or_messages(row, place)
        if isinstance(said, str):
            return {"role": "assistant", "content": said}
        before, last = said[:-1], said[-1]
        if last["role"] != "assistant" or (before and before != self._question(row, place)):
            roles = ", ".join(message["role"] for message in said)
            fault = "expected one message of the assistant's, alone or after the prompt's messages"
            raise RecipeError(f"{completion.key}: {place}: {fault}, got the roles {roles}")
        if not self.source.chat:
            raise RecipeError(f"{completion.key}: {place}: a list of messages needs {self.key}.chat: true")
        return last

    def _few_shot(self) -> tuple[list[tuple[str | Messages, str]], int]:
        """(question, solution) of each example, and how many of the first rows they use up."""
        key, wanted = f"{self.key}.few_shot", self.source.few_shot
        used_up = wanted if isinstance(wanted, int) else 0
        if used_up >= len(self.rows):
            raise RecipeError(f"{key}: {used_up} examples taken from {len(self.rows)} rows leave none to train on")
        examples = []
        for index, row in enumerate(self.rows[:wanted] if isinstance(wanted, int) else wanted):
            place = f"few_shot[{index}]"
            if self._completion is not None:
                solution = self._said(row, place, self._completion)["content"]
            else:
                solution = _gold(self._resolved_answer(row, place), f"{self.key}.answer: {place}")
            examples.append((self._question(row, place), solution))
        return examples, used_up

    def _text(self, index: int) -> str:
        """The prompt of one row as the model reads it."""
        if not self.source.chat:
            return "".join(f"{asked}{solved}\n\n" for asked, solved in self._examples) + self.questions[index]
        try:
            return self._conversation(index).prompt
        except ValueError as error:
            raise RecipeError(f"{self.key}.chat: {self.part}:{index}: {error}") from None

    def _conversation(self, index: int) -> Conversation:
        """System prompt, examples and the row's messages; the row's own system message stands for the recipe's."""
        messages = _as_messages(self._asked[index])
        system = [message for message in messages[:1] if message["role"] in SYSTEM]
        own = messages[len(system) :]
        if not system and self.source.system_prompt is not None:
            system = [{"role": "system", "content": self.source.system_prompt}]
        shown = [
            message
            for asked, solved in self._examples
            for message in [*_as_messages(asked), {"role": "assistant", "content": solved}]
            if message["role"] not in SYSTEM
        ]
        return Conversation(self.tokenizer, [*system, *shown, *own], self._tools(index))

    def _tools(self, index: int) -> list[Any] | None:
        if self._tool_list is None:
            return None
        place = f"{self.part}:{index}"
        value = as_json(self._tool_list.value(self.rows[index], place))
        if value is not None and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            raise RecipeError(f"{self._tool_list.key}: {place}: expected a list of schemas, got {short(value)}")
        return value or None

    def _encode(self, text: str) -> list[int]:
        """A chat template writes its own special tokens; plain text gets the tokenizer's, save a closing one."""
        token_ids = self.tokenizer.encode(text, add_special_tokens=not self.source.chat)
        closed = token_ids and token_ids[-1] == self.tokenizer.eos_token_id
        if closed and not text.endswith(cast(str, self.tokenizer.eos_token)):
            token_ids.pop()
        return token_ids

    def _continue(self, prompt: Prompt, text: str) -> list[int]:
        """Tokens of `text` after the prompt: as in the whole text, if the prompt's tokens stay the same in it."""
        whole = self._encode(prompt.text + text)
        length = len(prompt.token_ids)
        if tuple(whole[:length]) == prompt.token_ids:
            return whole[length:]
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _refuse_unknown(self, token_ids: Sequence[int], text: str, key: str, index: int) -> None:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in token_ids or cast(str, self.tokenizer.unk_token) in text:
            return
        missing = [c for c in dict.fromkeys(text) if unknown in self.tokenizer.encode(c, add_special_tokens=False)]
        raise RecipeError(f"{key}: {self.part}:{index} has characters that the vocabulary lacks: {''.join(missing)!r}")


def _gold(answer: Any, where: str) -> str:
    try:
        return gold_texts(answer)[0]
    except ValueError as error:
        raise RecipeError(f"{where}: {error}; expected {EXPECTED}") from None


def _as_messages(asked: str | Messages) -> Messages:
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked


def _index(prompt: Prompt) -> int:
    return int(prompt.id.rpartition(":")[2])
