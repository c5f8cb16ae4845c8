"""A trial of the environment in an episode, and of `keep` on the group of its answers: what sampling calls.

The authors follow a script: they write a valid action, where the environment names one, the row's gold answer, and
garbage.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.check.environment import example_action, say_episode
from llmrl.check.report import Report
from llmrl.check.writing import GARBAGE, golds_of
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RunStopped
from llmrl.pieces import Piece, bind
from llmrl.recipe import Recipe
from llmrl.recipe_moves import ONE_ANSWER
from llmrl.resolve import Pieces, resolve_moves, trained_on
from llmrl.rollout.collect import Collector, kept
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.run.models import Origin
from llmrl.run.sampling import author_text, params_of
from llmrl.types import Group, Prompt, Score

SECONDS = 30.0
GRACE = 5.0
EPISODES = 2


@dataclass(frozen=True)
class Tried:
    """A role of the stage that is tried: its recipe, its pieces, its model's starting point."""

    recipe: Recipe
    pieces: Pieces
    origin: Origin


def check_by_trial(recipe: Recipe, roles: Mapping[str, Tried], prompt: Prompt, report: Report) -> None:
    """Play episodes of one question with scripted answers, and let every trained role's `keep` choose from them."""
    untried = None if recipe.moves else next(iter(roles.values())).pieces.env.mark("tried_without")
    if untried:
        report.skipped("episode", untried)
    played = "moves" if recipe.moves else f"env: {next(iter(roles.values())).pieces.env.name}"
    ended: list[list[Group] | Exception] = []
    play = threading.Thread(target=lambda: ended.append(_played(recipe, roles, prompt)), daemon=True)
    play.start()  # a thread can be left behind, should the environment never give the event loop back
    play.join(SECONDS + GRACE)
    if not ended:
        report.faults.append(f"{played}: a trial episode holds up the event loop for more than {SECONDS:g} s")
        return
    groups = ended[0]
    if isinstance(groups, Exception):
        report.faults.append(f"{played}: in a trial episode: {groups}")
        return
    failures = {id(t.episode): t.failure for group in groups for t in group.trajectories if t.failure}
    if len(failures) == EPISODES:
        report.faults.append(f"{played}: {next(iter(failures.values())).message}, in a trial episode")
        return
    for failure in failures.values():
        report.warn(f"{played}: {failure.message}, in one of {EPISODES} trial episodes")
    if recipe.env != ONE_ANSWER and not recipe.moves and not untried:
        shown = next(t for group in groups for t in group.trajectories if not t.failure)
        say_episode(shown, author_text(roles[shown.author].origin).decode, report)
    keep = {name: role.pieces.keep for name, role in roles.items() if role.recipe.trained}
    for group in groups:
        try:
            kept(group, keep)
        except RunStopped as error:
            report.faults.append(f"{error}, in a trial on a group of {len(group.trajectories)}")


def _played(recipe: Recipe, roles: Mapping[str, Tried], prompt: Prompt) -> list[Group] | Exception:
    """The scored groups of the question's trial episodes, or why there are none."""
    env = _played_env(roles)
    answers = [*example_action(env, recipe.turns.action), *golds_of(prompt)[:1], GARBAGE]
    authors = {
        name: Author(_Scripted(role.origin, answers), _Verdicts(role.recipe), author_text(role.origin))
        for name, role in roles.items()
    }
    collector = Collector(
        authors,
        make_env=env,
        deadline_seconds=SECONDS,
        env_retries=0,
        max_prompt_tokens=recipe.rollout.max_prompt_tokens,
        moves=resolve_moves(recipe),
        turns=recipe.turns,
    )
    params = params_of(recipe, {name: role.origin for name, role in roles.items()})(recipe.seed)
    try:
        return collector.sample([prompt], group_size=EPISODES, params=params)
    except Exception as error:  # a user's environment may raise anything
        return error
    finally:
        collector.close()


def _played_env(roles: Mapping[str, Tried]) -> Piece:
    """The environment of the trial: a plain question in place of one that a check does not play."""
    env = next(iter(roles.values())).pieces.env
    return bind("single_turn", single_turn, {}, key="env") if env.mark("tried_without") else env


class _Scripted:
    """A Sampler that gives the same texts, one after the other."""

    policy_version = 0
    takes_adapter = False

    def __init__(self, origin: Origin, answers: Sequence[str]):
        tokenizer: Any = origin.tokenizer
        end = list(origin.stop_token_ids[:1])
        self._answers = itertools.cycle([tokenizer.encode(text, add_special_tokens=False) + end for text in answers])

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        answer = next(self._answers)
        given = answer[: params.max_tokens]
        return Completion(given, [-0.5] * len(given), "stop" if given == answer else "length", 0)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class _Verdicts:
    """A Scorer that calls every second trajectory right, under the names of the recipe's rewards."""

    def __init__(self, recipe: Recipe):
        self._names, self._trained_on = list(recipe.rewards), trained_on(recipe)

    async def begin(self, group: Group) -> None:
        await self.score(group)

    async def score(self, group: Group) -> None:
        for place, trajectory in enumerate(group.trajectories):
            right = place % 2 == 0
            trajectory.scores = {name: Score(float(right), right) for name in self._names}
            trajectory.components = {name: float(right) for name in self._trained_on}
            trajectory.reward = float(right) * len(self._trained_on)
