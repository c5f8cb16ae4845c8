"""A role of the recipe as a judge: it replies to questions through its own sampler, with the weights of the step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from llmrl.rewards.respondents import MOST_ALTERNATIVES, Question
from llmrl.rewards.services import ReplyError
from llmrl.rewards.verdicts import Reply, Token
from llmrl.rollout.sampler import Sampler, SamplingParams


@dataclass(frozen=True)
class RoleRespondent:
    """A role that replies.

    prompt: a question's text, and whether it is a chat, to the tokens that the role reads. decode: see
    llmrl.models.text.decoder. room: the most tokens of a question and its reply together.
    """

    role: str
    sampler: Sampler
    prompt: Callable[[str, bool], list[int]]
    decode: Callable[[list[int]], str]
    stop_token_ids: Collection[int]
    room: int

    @property
    def name(self) -> str:
        return f"role {self.role}"

    async def reply(self, question: Question) -> Reply:
        """The role's reply, cut at its `room`; raises ReplyError for a question that leaves no room."""
        token_ids = self.prompt(question.text, question.chat)
        if len(token_ids) >= self.room:
            raise ReplyError(
                f"{self.name}: a question of {len(token_ids)} tokens leaves no room for a reply; its "
                f"rollout.max_prompt_tokens and max_completion_tokens are {self.room} together"
            )
        params = SamplingParams(
            max_tokens=min(question.max_tokens, self.room - len(token_ids)),
            temperature=question.temperature,
            stop_token_ids=tuple(self.stop_token_ids),
            seed=question.seed,
            alternatives=MOST_ALTERNATIVES if question.logprobs else 0,
        )
        found = await self.sampler.sample(token_ids, params)
        text = self.decode(found.token_ids)
        if not question.logprobs:
            return Reply(text)
        return Reply(text, tuple(map(self._token, found.token_ids, found.alternatives)))

    def _token(self, token: int, alternatives: list[tuple[int, float]]) -> Token:
        return Token(self.decode([token]), tuple((self.decode([one]), logprob) for one, logprob in alternatives))
