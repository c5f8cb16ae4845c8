"""Playing the moves of a recipe: trees of texts, each sampled in a context that the texts before it make.

question ──> draft ──> critique ──> refinement
        │         └──> critique ──> refinement
        └──> draft ──> critique ──> ...
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrl.data.steps import split_steps
from llmrl.errors import RunStopped, short
from llmrl.models.text import step_ends
from llmrl.pieces import Piece
from llmrl.recipe_moves import ABOVE, FEEDBACK, PROMPT, VERDICT, Move, texts_of, told_of
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rollout.play import Author, counted
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.templates import RowTemplate
from llmrl.types import DATASET, RIGHT, WRONG, Episode, Failure, Group, Prompt, Trajectory, Turn

NO_THOUGHTS = ""
"""The end of thoughts for a move whose whole text is read; see llmrl.rewards.thoughts.after_thoughts."""


@dataclass(frozen=True)
class Asked:
    """A move as it is played. choose: the piece that chooses which of a group of siblings the move follows."""

    name: str
    move: Move
    choose: Piece | None = None


@dataclass(frozen=True)
class Asking:
    """One question being played. waiting: running calls by kind. places: of the completions in flight."""

    prompt: Prompt
    params: SamplingParams
    waiting: Counter[str]
    places: asyncio.Semaphore


class Moves:
    """Plays questions: every answer to the first move begins an episode, whose trajectories are a tree.

    authors: the roles, by name. moves: in the recipe's order. max_prompt_tokens: of every context.
    """

    def __init__(self, authors: Mapping[str, Author], moves: Sequence[Asked], *, max_prompt_tokens: int | None = None):
        self._authors = authors
        self._moves = {asked.name: asked for asked in moves}
        self._first = next(iter(moves))
        self._told = told_of({asked.name: asked.move for asked in moves})
        self._max_prompt_tokens = max_prompt_tokens

    def learned_from(self, trajectory: Trajectory) -> bool:
        """Whether a trajectory may be trained on."""
        return self._moves[trajectory.move].move.learned_from

    def unwritten(self, groups: Iterable[Group], authors: Collection[str]) -> list[str]:
        """The moves of these authors that are learned from, if the groups hold texts of none of them."""
        written = {one.move for group in groups for one in group.trajectories}
        learned = [name for name, asked in self._moves.items() if asked.move.learned_from and asked.move.by in authors]
        return [] if written & set(learned) else learned

    async def episodes(self, asking: Asking, count: int, begun: int = 0) -> list[Episode]:
        """`count` answers to the question, each with all that follows it; of rows' texts as many as there are.

        begun: the question's episodes that there are already, whose numbers these follow. Raises RunStopped if a
        `choose` function raises, or gives anything but siblings.
        """
        roots = await self._follow(asking, self._first, None, count, begun)
        episodes = [Episode(asking.prompt, root.below, number) for number, root in enumerate(roots, begun)]
        for episode in episodes:
            for trajectory in episode.trajectories:
                trajectory.episode = episode
        return episodes

    async def _follow(
        self, asking: Asking, asked: Asked, parent: Trajectory | None, count: int, before: int = 0
    ) -> list[Trajectory]:
        """A move's texts after a trajectory, or after the question, each with all that follows it."""
        place = f"{parent.node}/{asked.name}." if parent else ""
        each = [stop for stop in self._stops(asked, parent) for _ in range(count)]
        begun = [
            self._begun(asked, parent, f"{place}{number}", asking.prompt, stop)
            for number, stop in enumerate(each, before)
        ]
        if asked.move.column is not None and begun:
            begun = self._given(asked, begun, asking)
        waits = not asking.params.evaluating and any(
            one.choose for one in self._moves.values() if asked.name in one.move.follows
        )

        async def one(trajectory: Trajectory) -> None:
            if asked.move.column is None:
                await self._sample(asking, asked, trajectory)
            if not waits:
                await self._go_on(asking, [trajectory])

        await asyncio.gather(*map(one, begun))
        if waits:
            await self._go_on(asking, begun)
        return begun

    async def _go_on(self, asking: Asking, siblings: Sequence[Trajectory]) -> None:
        """Play all that follows these siblings."""
        if siblings and siblings[0].move in self._told:
            await self._judge(asking, [one for one in siblings if one.failure is None])
        live = [one for one in siblings if one.failure is None and not one.lacks]
        following: list[tuple[Trajectory, Asked]] = []
        for asked in self._following(live[0]) if live else ():
            choose = None if asking.params.evaluating else asked.choose
            if choose is not None:  # it may look at what the moves before it made of the siblings
                await self._follow_all(asking, following)
                following = []
            chosen = live if choose is None else await self._chosen(asking, f"moves.{asked.name}.choose", choose, live)
            following += [(parent, asked) for parent in chosen]
        await self._follow_all(asking, following)

    async def _follow_all(self, asking: Asking, following: Sequence[tuple[Trajectory, Asked]]) -> None:
        """Play each of these moves after its trajectory, all at once."""
        found = await asyncio.gather(
            *(self._follow(asking, asked, one, _count(asking, asked)) for one, asked in following)
        )
        for (parent, _), children in zip(following, found, strict=True):
            parent.children += children

    def _take_apart(self, trajectory: Trajectory) -> None:
        """Find the parts of a trajectory's text, without all of which nothing follows it."""
        move = self._moves[trajectory.move].move
        trajectory.parts = move.parts_of(self._read(trajectory))
        trajectory.lacks = tuple(name for name in move.parts if name not in trajectory.parts)

    def _following(self, trajectory: Trajectory) -> list[Asked]:
        """The moves that follow a trajectory."""
        path = Counter(one.move for one in trajectory.path)
        return [
            asked
            for name, asked in self._moves.items()
            if trajectory.move in asked.move.follows and path[name] < asked.move.rounds
        ]

    async def _chosen(
        self, asking: Asking, key: str, choose: Piece, siblings: Sequence[Trajectory]
    ) -> list[Trajectory]:
        """The siblings that a function chooses.

        The rewards that read no other verdict have scored them, and what follows them so far.
        """
        author = siblings[0].author
        by_move: dict[str, list[Trajectory]] = {}
        for one in (below for sibling in siblings for below in sibling.below if below.failure is None):
            by_move.setdefault(one.move, []).append(one)
        for judged in by_move.values():
            await self._judge(asking, judged)
        group = Group(asking.prompt, [one for one in siblings if one.failure is None], author)
        if not group.trajectories:
            return []
        try:
            given = choose({"group": group})
            left = list(given) if isinstance(given, Iterable) else None
        except Exception as error:  # a user's function may raise anything
            raise RunStopped(f"{key}: {choose.name}: {type(error).__name__}: {error}") from error
        if left is None or not all(any(one is own for own in group.trajectories) for one in left):
            raise RunStopped(f"{key}: {choose.name}: gave {short(given)}, expected trajectories of the group")
        return left

    def _stops(self, asked: Asked, parent: Trajectory | None) -> Sequence[int | None]:
        """The numbers of tokens of the parent that are read, one for each of its prefixes; None for all of it."""
        prefixes = asked.move.prefixes
        if prefixes is None or parent is None:
            return [None]
        [turn], decode = parent.turns, self._authors[parent.author].text.decode
        steps = split_steps(parent.text, prefixes.delimiter)
        ends = step_ends(lambda ids: decode(list(ids)), turn.token_ids, parent.text, steps, prefixes.delimiter)
        stops = [0, *dict.fromkeys(end + 1 for end in ends[:-1])]
        if len(stops) <= prefixes.most:
            return stops
        gap = (len(stops) - 1) / max(prefixes.most - 1, 1)
        return [stops[round(place * gap)] for place in range(prefixes.most)]

    async def _judge(self, asking: Asking, texts: Sequence[Trajectory]) -> None:
        """Ask the rewards that read no other verdict about texts of one move."""
        if texts and (scorer := self._authors[texts[0].author].scorer) is not None:
            await counted(asking.waiting, "rewards", scorer.begin(Group(asking.prompt, list(texts), texts[0].author)))

    def _begun(
        self, asked: Asked, parent: Trajectory | None, node: str, prompt: Prompt, prefix: int | None
    ) -> Trajectory:
        """A trajectory that nobody has written yet; prefix: how many tokens of the parent its author reads."""
        author, parts = asked.move.by, self._part_columns(parent)
        prompt = replace(prompt, row={**prompt.row, **parts}) if parts else prompt
        begun = Trajectory(prompt, [Turn(author, [])], "stop", author=author, move=asked.name, node=node, parent=parent)
        begun.prefix = prefix
        if parent is None:
            return begun
        within = asked.move.compared_within
        above = next((one for one in reversed(begun.path[:-1]) if one.move == within), parent)
        state = "" if prefix is None or within is not None else f" at {prefix}"
        begun.compared = asked.name if within == PROMPT else f"{asked.name} of {above.node}{state}"
        return begun

    def _given(self, asked: Asked, begun: Sequence[Trajectory], asking: Asking) -> list[Trajectory]:
        """The trajectories with the row's texts; where there are more texts, some are drawn."""
        texts = texts_of(asked.move, asking.prompt.row)
        if len(texts) > len(begun):
            draw = random.Random(derive_seed(asking.params.seed, "given", begun[0].node))
            texts = [texts[place] for place in sorted(draw.sample(range(len(texts)), len(begun)))]
        given = list(begun[: len(texts)])
        for trajectory, text in zip(given, texts, strict=True):
            [turn] = trajectory.turns
            author = self._authors[asked.move.by].text
            turn.token_ids = author.encode(text)
            if asked.move.replayed and self._read_ask(asked, trajectory) is not None:
                turn.token_ids += author.end
            turn.text = trajectory.text = text
            trajectory.writer = DATASET
            self._take_apart(trajectory)
        return given

    async def _sample(self, asking: Asking, asked: Asked, trajectory: Trajectory) -> None:
        """Let the move's author write; a context that cannot be made, or is too long, is the trajectory's failure."""
        author, [turn] = self._authors[asked.move.by], trajectory.turns
        if (context := self._read_ask(asked, trajectory)) is None:
            return
        async with asking.places:
            sampled = author.sampler.sample(context, _params(asking, asked, trajectory))
            found = await counted(asking.waiting, "sampler", sampled)
        turn.token_ids, turn.rollout_logprobs = found.token_ids, found.logprobs
        turn.policy_version, trajectory.stop_reason = found.policy_version, found.stop_reason
        turn.text = trajectory.text = author.text.decode(found.token_ids)
        self._take_apart(trajectory)

    def _read_ask(self, asked: Asked, trajectory: Trajectory) -> list[int] | None:
        """The tokens that the author reads, as the trajectory's prompt; None, and a failure, if they cannot be made."""
        try:
            context = self._context(asked, trajectory)
        except ValueError as error:
            trajectory.failure = Failure(f"moves.{asked.name}", "invalid", str(error))
            return None
        if tuple(context) != trajectory.prompt.token_ids:
            text = self._authors[asked.move.by].text.decode(context)
            trajectory.prompt = replace(trajectory.prompt, token_ids=tuple(context), text=text)
        return context

    def _context(self, asked: Asked, trajectory: Trajectory) -> list[int]:
        """The tokens that a move's author reads; raises ValueError for a missing value, and for too many tokens."""
        text, ask, prompt = self._authors[asked.move.by].text, asked.move.ask, trajectory.prompt
        values = self._values(trajectory.path[:-1], prompt, trajectory.prefix)
        if ask is None:
            context = list(prompt.token_ids)
        elif isinstance(ask, str):
            filled = RowTemplate(ask).fill(values)
            chat = prompt.messages is not None
            context = text.chat([{"role": "user", "content": filled}]) if chat else text.plain(filled)
        else:
            messages: list[Mapping[str, Any]] = []
            for item in ask:
                if isinstance(item, str):
                    messages += prompt.messages or [{"role": "user", "content": prompt.text}]
                else:
                    messages += [{"role": who, "content": RowTemplate(said).fill(values)} for who, said in item.items()]
            context = text.chat(messages)
        if not context:
            raise ValueError(f"gave {asked.move.by} nothing to read")
        limit = self._max_prompt_tokens
        if limit is not None and len(context) > limit:
            raise ValueError(
                f"gave {asked.move.by} a context of {len(context)} tokens, more than rollout.max_prompt_tokens {limit}"
            )
        return context

    def _values(self, path: Sequence[Trajectory], prompt: Prompt, prefix: int | None) -> dict[str, Any]:
        """The values of a template's names after a path, of whose last text `prefix` tokens are read."""
        asked = [one["content"] for one in prompt.messages or () if one["role"] == "user"]
        values = dict(prompt.row) | {PROMPT: asked[-1] if asked else prompt.text}
        for one in path:
            values[one.move] = values[ABOVE] = self._read(one)
            if one.move in self._told and one.correct is not None:
                values[f"{one.move}.{VERDICT}"] = RIGHT if one.correct else WRONG
                values[f"{one.move}.{FEEDBACK}"] = " ".join(x.feedback for x in one.scores.values() if x.feedback)
        if prefix is not None:
            last, [turn] = path[-1], path[-1].turns
            values[last.move] = values[ABOVE] = self._authors[last.author].text.decode(turn.token_ids[:prefix])
        return values

    def _read(self, trajectory: Trajectory) -> str:
        """The text that others read of a trajectory: no thoughts, and no blanks at its end, such as a stop string's."""
        end = self._moves[trajectory.move].move.thoughts_end or NO_THOUGHTS
        return (after_thoughts(trajectory.text, trajectory.prompt.text, thoughts_end=end) or "").rstrip()

    def _part_columns(self, parent: Trajectory | None) -> dict[str, str]:
        """The parts of the texts on the way to a new one, by the names under which they are read; the latest count."""
        return {
            f"{one.move}.{part}": text for one in (parent.path if parent else ()) for part, text in one.parts.items()
        }


def _count(asking: Asking, asked: Asked) -> int:
    """How many texts of a move follow one; greedy ones would be equal."""
    move = asked.move
    return 1 if move.greedy or not asking.params.of(move.by).temperature else move.samples


def _params(asking: Asking, asked: Asked, trajectory: Trajectory) -> SamplingParams:
    move, own = asked.move, asking.params.of(asked.move.by)
    most = min(own.max_tokens, move.max_completion_tokens or own.max_tokens)
    params = replace(own, max_tokens=most, seed=derive_seed(asking.params.seed, trajectory.node))
    return replace(params, temperature=0.0, top_p=1.0, top_k=None) if move.greedy else params
