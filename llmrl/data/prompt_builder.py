"""One source's rows as prompts and completions: templates, few-shot examples, chat rendering.

Text is rendered first and tokenized once. A demonstration is the ideal completion of the prompt's exact tokens, its
stop token included:

    plain   prompt  "3+4="                              demonstration  "7" <eos>
    chat    prompt  "<user>3+4=<eos><assistant>"        demonstration  "7" <eos>      (the template's own turn end)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llmrl.columns import as_json
from llmrl.data.chat import Conversation
from llmrl.data.faulty_rows import of_every_row
from llmrl.data.files import Row
from llmrl.data.messages import SYSTEM, Messages, transcript
from llmrl.data.row_tools import RowTools, ToolLists
from llmrl.data.row_values import RowValue, row_values
from llmrl.data.steps import solution_of
from llmrl.data.written import Exact, Span, Written, reward_of_label, reward_of_score
from llmrl.errors import RecipeError, short
from llmrl.models.text import as_written, prompt_tokens
from llmrl.recipe_rows import Rows
from llmrl.rewards.golds import EXPECTED, gold_texts
from llmrl.templates import RowTemplate
from llmrl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Found = TypeVar("Found")

DEFAULT_ANSWER = "answer"
ASKED = "asked"
"""The column with the question of a prompt that no row asks."""
COLUMN_KEYS = (
    "prompt", "completion", "chosen", "rejected", "label", "completions", "scores", "steps", "step_labels", "tools",
)  # fmt: skip
"""The keys of rows that name columns, besides the answer's."""


class PromptBuilder:
    """Renders `rows` as `source` says; raises RecipeError naming the key, row and column that cannot be used.

    part: "train" or "eval", the first half of every Prompt.id ("train:17" is row 17 of the source).
    stop_token_ids: the tokens that end a completion; default: the tokenizer's end-of-sequence token.
    questions: each row's rendered prompt before system prompt, examples and chat template. tools: the environment's.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: Rows,
        rows: Sequence[Row],
        *,
        part: str = "train",
        stop_token_ids: Sequence[int] = (),
        tools: RowTools | None = None,
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
        self._values = row_values(source, COLUMN_KEYS, columns, key)
        self._tool_lists = ToolLists(source, self._values.get("tools"), tools, key)
        self._system = _system_prompt(source, columns, key)
        self._category = RowValue(source.category, columns, f"{key}.category") if source.category else None
        # the default column may be absent: from rows to imitate, or from rows of a task whose reward reads others
        self._may_lack_answer = source.answer == DEFAULT_ANSWER and source.answer_after is None
        has_answer = source.answer is not None and (source.answer in columns or not self._may_lack_answer)
        self._answer = RowValue(cast(str, source.answer), columns, f"{key}.answer") if has_answer else None
        self._components = {name: RowValue(name, columns, f"{key}.components") for name in source.components or ()}
        self._ends = [cast(str, tokenizer.decode([token])) for token in self.stop_token_ids]
        self._asked = of_every_row(rows, self._question, part, f"{key}.prompt")
        self.questions = [asked if isinstance(asked, str) else transcript(asked) for asked in self._asked]
        self._examples, self._first = self._few_shot()

    def build(self, max_prompt_tokens: int) -> tuple[list[Prompt], int]:
        """Every row's prompt except the rows used as examples, and how many were too long and left out."""
        prompts = []
        for index in range(self._first, len(self.rows)):
            exact = self._exact(self.rows[index], f"{self.part}:{index}")
            text = self._text(index) if exact is None else self.questions[index]
            token_ids = (self._encode(text) or [self._first_token()]) if exact is None else exact
            self._refuse_unknown(token_ids, text, f"{self.key}.prompt", index)
            if len(token_ids) <= max_prompt_tokens:
                chat = self.source.chat and exact is None
                messages = tuple(self._conversation(index).messages) if chat else None
                tools = (self._tools(index) or ()) if chat else ()
                row = self._with_answer(index)
                prompts.append(Prompt(f"{self.part}:{index}", tuple(token_ids), text, row, messages, tuple(tools)))
        return prompts, len(self.rows) - self._first - len(prompts)

    def asking(self, text: str, row: Row) -> PromptBuilder:
        """The builder of a single question that no row asks, with this system prompt and these examples."""
        own = copy.copy(self)
        own.rows, own._asked, own.questions, own._first = [{**row, ASKED: text}], [text], [text], 0
        own._answer = None
        return own

    def question(self, prompt: Prompt) -> str:
        """The rendered prompt of one row, before system prompt, examples and chat template."""
        return self.questions[_index(prompt)]

    def category(self, prompt: Prompt) -> str:
        """The row's category as a part of a metric's name, in which a slash would begin another part."""
        assert self._category is not None
        return self._category.text(self.rows[_index(prompt)], prompt.id).strip().replace("/", "_") or "none"

    def demonstration(self, prompt: Prompt) -> Written:
        """The row's completion, which should follow `prompt.token_ids`, up to its stop token."""
        if "completion" not in self._values:
            raise RecipeError(f"{self.key}.completion: required for demonstrations, and missing")
        return Written(self._following(prompt, self._values["completion"]))

    def comparison(self, prompt: Prompt) -> list[Written]:
        """The row's completions with their rewards: 1 for a chosen or a good one, 0 for others; or their scores."""
        row, values = self.rows[_index(prompt)], self._values
        if "chosen" in values:
            rewards = {"chosen": 1.0, "rejected": 0.0}
            return [Written(self._following(prompt, values[name]), reward) for name, reward in rewards.items()]
        if "label" in values:
            reward = self._reward("label", reward_of_label, row, prompt.id)
            return [Written(self._following(prompt, values["completion"]), reward)]
        if self._components:
            parts = {name: self._component(value, row, prompt.id) for name, value in self._components.items()}
            known = [part for part in parts.values() if not math.isnan(part)]
            reward = sum(known) / len(known) if known else 0.0
            return [Written(self._following(prompt, values["completion"]), reward, parts)]
        completions = self._list("completions", row, prompt.id)
        scores = self._reward("scores", lambda given: [reward_of_score(score) for score in given], row, prompt.id)
        if len(scores) != len(completions):
            fault = f"{len(scores)} scores for {len(completions)} completions"
            raise RecipeError(f"{self.key}.scores: {prompt.id}: {fault}; expected one for each")
        columns = [f"completions.{number}" for number in range(len(completions))]
        found = [RowValue(name, ["completions"], f"{self.key}.{name}") for name in columns]
        listed = {"completions": completions}
        spans = [self._following(prompt, value, {**row, **listed}) for value in found]
        return [Written(own, score) for own, score in zip(spans, scores, strict=True)]

    def solutions(self, prompt: Prompt) -> list[Written]:
        """The row's solutions, each step a span whose reward is the step's label."""
        row, source = self.rows[_index(prompt)], self.source
        lists = {name: self._list(name, row, prompt.id, empty=True) for name in ("steps", "step_labels")}
        if lists["steps"] and all(isinstance(one, Written) for one in lists["steps"]):
            return lists["steps"]
        if not (lists["steps"] and isinstance(lists["steps"][0], list)):  # a row of one solution
            lists = {name: [values] for name, values in lists.items()}
        settings = {name: getattr(source, name) for name in ("separator", "neutral", "last_step_only")}
        try:
            if len(lists["steps"]) != len(lists["step_labels"]):
                raise ValueError(f"{len(lists['step_labels'])} lists of labels for {len(lists['steps'])} solutions")
            pairs = zip(lists["steps"], lists["step_labels"], strict=True)
            found = [solution_of(self.tokenizer, [str(x) for x in s], one, **settings) for s, one in pairs]
        except ValueError as error:
            raise RecipeError(f"{self.key}.step_labels: {prompt.id}: {error}") from None
        for one, steps in zip(found, lists["steps"], strict=True):
            text = "".join(map(str, steps)) + source.separator
            self._refuse_unknown(one.token_ids, text, f"{self.key}.steps", _index(prompt))
        return found

    def _list(self, name: str, row: Row, place: str, *, empty: bool = False) -> list[Any]:
        value = as_json(self._values[name].value(row, place))
        if not isinstance(value, Sequence) or isinstance(value, str) or (len(value) == 0 and not empty):
            raise RecipeError(f"{self.key}.{name}: {place}: expected a list, got {short(value)}")
        return list(value)

    def _component(self, value: RowValue, row: Row, place: str) -> float:
        """A part of the row's reward; nan for null."""
        found = value.value(row, place)
        try:
            return math.nan if found is None else reward_of_score(found)
        except ValueError as error:
            raise RecipeError(f"{value.key}: {place}: {error}") from None

    def _reward(self, name: str, read: Callable[[Any], Found], row: Row, place: str) -> Found:
        """The value that `read` gives for a column of labels or scores."""
        value = self._list(name, row, place) if name == "scores" else self._values[name].value(row, place)
        try:
            return read(value)
        except ValueError as error:
            raise RecipeError(f"{self.key}.{name}: {place}: {error}") from None

    def _following(self, prompt: Prompt, completion: RowValue, row: Row | None = None) -> list[Span]:
        """The tokens of a column's completion that follow `prompt.token_ids`, up to its stop token."""
        key, index = completion.key, _index(prompt)
        given = completion.value(self.rows[index] if row is None else row, prompt.id)
        if isinstance(given, Written):
            return given.spans
        said = self._said(self.rows[index] if row is None else row, prompt.id, completion)
        parts = [(said[0]["content"], True)]
        if self.source.chat:
            conversation = self._conversation(index)
            try:
                parts = (
                    [(conversation.answer(said[0]), True)] if len(said) == 1 else conversation.turns(said, self._ends)
                )
            except ValueError as error:
                raise RecipeError(f"{key}: {prompt.id}: {error}") from None
        found = self._continue(prompt, [text for text, _ in parts])
        self._refuse_unknown([token for part in found for token in part], "".join(t for t, _ in parts), key, index)
        spans = [Span(token_ids, trained) for token_ids, (_, trained) in zip(found, parts, strict=True)]
        return [*spans[:-1], Span(self._ended(spans[-1].token_ids))]

    def _ended(self, token_ids: list[int]) -> list[int]:
        """The tokens up to the first that ends a completion, which is added if there is none."""
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
        """The row's question: text, or messages without the answers that `completion` names in the same list."""
        if "prompt" not in self._values:
            return ""
        if (exact := self._exact(row, place)) is not None:
            return as_written(self.tokenizer, exact)
        prompt = self._values["prompt"]
        asked, where = prompt.text_or_messages(row, place), f"{prompt.key}: {place}"
        if isinstance(asked, str):
            if not asked.strip():
                raise RecipeError(f"{where}: empty, so nothing is asked")
            return asked
        if not self.source.chat:
            raise RecipeError(f"{where}: a list of messages needs {self.key}.chat: true")
        if asked[-1]["role"] == "assistant":
            completion = self._values.get("completion")
            if completion is None or completion.text_or_messages(row, place) != asked:
                raise RecipeError(
                    f"{where}: its last message is the assistant's, which leaves nothing to answer; to leave that "
                    f"message out, and to imitate it, set {self.key}.completion to {self.source.prompt!r} too"
                )
            asked = asked[: self._first_trained(asked)]
        if not any(message["content"].strip() for message in asked if message["role"] not in SYSTEM):
            raise RecipeError(f"{where}: no message says anything to answer")
        return asked

    def _first_trained(self, messages: Messages) -> int:
        """The place of the first answer to train on in a conversation that ends with one."""
        if self.source.turns == "last":
            return len(messages) - 1
        asked = next((n for n, one in enumerate(messages) if one["role"] not in (*SYSTEM, "assistant")), len(messages))
        return next((n for n in range(asked, len(messages)) if messages[n]["role"] == "assistant"), 0)

    def _said(self, row: Row, place: str, completion: RowValue) -> Messages:
        """The messages of a column's completion: of a list of messages those after the prompt's."""
        said = completion.text_or_messages(row, place)
        if isinstance(said, str):
            return [{"role": "assistant", "content": said}]
        asked = self._question(row, place)
        after = said[len(asked) :] if said[: len(asked)] == asked else said
        if not after or {after[0]["role"], after[-1]["role"]} != {"assistant"}:
            roles = ", ".join(message["role"] for message in said)
            fault = "expected messages that begin and end with the assistant's, alone or after the prompt's messages"
            raise RecipeError(f"{completion.key}: {place}: {fault}, got the roles {roles}")
        if not self.source.chat:
            raise RecipeError(f"{completion.key}: {place}: a list of messages needs {self.key}.chat: true")
        return after

    def _few_shot(self) -> tuple[list[tuple[str | Messages, str]], int]:
        """(question, solution) of each example, and how many of the first rows they use up."""
        key, wanted = f"{self.key}.few_shot", self.source.few_shot
        used_up = wanted if isinstance(wanted, int) else 0
        if used_up >= len(self.rows):
            raise RecipeError(f"{key}: {used_up} examples taken from {len(self.rows)} rows leave none to train on")
        examples = []
        for index, row in enumerate(self.rows[:wanted] if isinstance(wanted, int) else wanted):
            place = f"few_shot[{index}]"
            if "completion" in self._values:
                solution = self._said(row, place, self._values["completion"])[-1]["content"]
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
        if not system and self._system is not None:
            system = [{"role": "system", "content": self._system(self.rows[index])}]
        shown = [
            message
            for asked, solved in self._examples
            for message in [*_as_messages(asked), {"role": "assistant", "content": solved}]
            if message["role"] not in SYSTEM
        ]
        return Conversation(self.tokenizer, [*system, *shown, *own], self._tools(index))

    def _tools(self, index: int) -> list[Any] | None:
        return self._tool_lists.of(self.rows[index], f"{self.part}:{index}")

    def _first_token(self) -> int:
        """The token after which a text without a prompt begins."""
        begins = self.tokenizer.bos_token_id
        return cast(int, self.tokenizer.eos_token_id if begins is None else begins)

    def _exact(self, row: Row, place: str) -> list[int] | None:
        """The tokens of a prompt that the row gives as such."""
        given = self._values["prompt"].value(row, place) if "prompt" in self._values else None
        return given.tokens(self.tokenizer) if isinstance(given, Exact) else None

    def _encode(self, text: str) -> list[int]:
        return prompt_tokens(self.tokenizer, text, chat=self.source.chat)

    def _continue(self, prompt: Prompt, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text after the prompt and the texts before it, whose own tokens they leave as they are.

        A text's tokens are those that it has in the whole, unless that would change tokens before it.
        """
        alone = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        before, token_ids = prompt.text, list(prompt.token_ids)
        if self._encode(before + "".join(texts)) == [*token_ids, *(token for one in alone for token in one)]:
            return alone
        found = []
        for text, own in zip(texts, alone, strict=True):
            whole, length = self._encode(before + text), len(token_ids)
            found.append(whole[length:] if whole[:length] == token_ids else own)
            before, token_ids = before + text, token_ids + found[-1]
        return found

    def _refuse_unknown(self, token_ids: Sequence[int], text: str, key: str, index: int) -> None:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in token_ids or cast(str, self.tokenizer.unk_token) in text:
            return
        missing = [c for c in dict.fromkeys(text) if unknown in self.tokenizer.encode(c, add_special_tokens=False)]
        raise RecipeError(f"{key}: {self.part}:{index} has characters that the vocabulary lacks: {''.join(missing)!r}")


def _system_prompt(source: Rows, columns: Collection[str], key: str) -> Callable[[Row], str] | None:
    """A row's system prompt, which is a template where rows have directions."""
    text = source.system_prompt
    if text is None or source.direction is None:
        return None if text is None else lambda row: text
    try:
        template = RowTemplate(text)
        template.check(columns)
    except ValueError as error:
        raise RecipeError(f"{key}.system_prompt: {error}") from None
    return template.fill


def _gold(answer: Any, where: str) -> str:
    try:
        return gold_texts(answer)[0]
    except ValueError as error:
        raise RecipeError(f"{where}: {error}; expected {EXPECTED}") from None


def _as_messages(asked: str | Messages) -> Messages:
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked


def _index(prompt: Prompt) -> int:
    return int(prompt.id.rpartition(":")[2])
