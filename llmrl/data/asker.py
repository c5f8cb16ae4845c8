"""Questions that no row asks, rendered as the rows of data.train are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmrl.data.prompt_builder import ASKED, PromptBuilder
from llmrl.errors import RecipeError
from llmrl.types import Prompt


@dataclass(frozen=True)
class Asker:
    """Renders questions with the template, the system prompt and the examples of data.train.

    builder: of the training rows. questions: prompt id -> what the row asks.
    """

    builder: PromptBuilder
    questions: Mapping[str, str]
    max_prompt_tokens: int

    def question(self, prompt: Prompt) -> str:
        """A prompt's question, before system prompt, examples and chat template."""
        return str(prompt.row[ASKED]) if ASKED in prompt.row else self.questions[prompt.id]

    def ask(self, text: str, prompt: Prompt, name: str) -> Prompt | None:
        """A prompt of this id that asks the text, with the other columns of the prompt's row but for the gold answer.

        None for an empty text, one that is too long, and one that the vocabulary cannot write.
        """
        if not text.strip():
            return None
        row = {column: value for column, value in prompt.row.items() if column not in ("answer", ASKED)}
        try:
            made, _ = self.builder.asking(text, row).build(self.max_prompt_tokens)
        except RecipeError:  # characters without a token
            return None
        return replace(made[0], id=name) if made else None
