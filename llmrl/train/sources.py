"""Sources give each step its groups. A recipe names one under `learn_from`; a user's is any function like these.

A source's positional parameters name the parts of the stage that it needs:

    stream           the training prompts in their order
    collector        samples and scores; a source that names it learns from the policy's own samples
    sample_groups    the function that samples the prompts of a round
    keep             the keep function of every trained role
    rollout          the recipe's rollout settings
    params           seed -> the sampling parameters of a step
    author           the first role, who answers the questions
    demonstrations   the rows' completions to imitate, by prompt id; a source that names it reads rows that have them
    comparisons      the rows' completions with their rewards, by prompt id; a source that names it reads rows that
                     have pairs, labels or scores
    asker            renders questions that no row asks; a source that names `collector` too may have them answered
    ranks            the processes of the run
    replay_folder    the folder below the run's for records of earlier steps
    solutions        the rows' solutions with labelled steps, by prompt id; a source that names it reads such rows

Fields of scored completions that a source brings without sampling are named by `llmrl.marks.brings`.

It returns a Source: an object with `collect(seed) -> Collected`, `state_dict()` and `load_state_dict(state)`. A buffer
is a Source that holds another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmrl.data.stream import PromptStream
from llmrl.data.written import Written
from llmrl.marks import brings, grouped_by
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams
from llmrl.train.evolved_prompts import evolved_prompts
from llmrl.train.filtered import filtered_rollouts
from llmrl.train.prompted_pairs import prompted_pairs
from llmrl.train.regenerated_turns import regenerated_turns
from llmrl.train.relabelled import relabelled
from llmrl.train.replayed import replayed
from llmrl.train.sources_of_rollouts import OfStream, Rollouts
from llmrl.train.spliced_paths import criticized_paths, spliced_paths
from llmrl.types import ACTOR, Group, Prompt


def compared_group(prompt: Prompt, written: Sequence[Written], author: str) -> Group:
    """A row's completions, as if `author` had given them, to compare with each other."""
    return Group(prompt, [one.trajectory(prompt, author) for one in written], author)


def compared_groups(prompt: Prompt, written: Sequence[Written], author: str) -> list[Group]:
    """The one group of a row's completions."""
    return [compared_group(prompt, written, author)]


class Source(Protocol):
    """Gives each step its groups; its state is all that it needs to continue exactly."""

    def collect(self, seed: int) -> Collected: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def rollouts(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    keep: Mapping[str, Piece],
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
) -> Source:
    """The current policy's own samples, scored."""
    return Rollouts(stream, collector, sample_groups, keep, rollout, params)


def demonstrations(
    stream: PromptStream, demonstrations: Mapping[str, Written], rollout: Rollout, author: str
) -> Source:
    """The rows' completions, to imitate."""
    return Demonstrations(stream, demonstrations, rollout.prompts_per_step, author)


@brings("rewards", "reward_components")
def preferences(
    stream: PromptStream, comparisons: Mapping[str, list[Written]], rollout: Rollout, author: str
) -> Source:
    """The rows' completions with their rewards, to compare with each other."""
    return Preferences(stream, comparisons, rollout.prompts_per_step, author)


def in_both_orders(prompt: Prompt, written: Sequence[Written], author: str) -> list[Group]:
    """Each pair of a row's completions as a group of two trajectories, which hold both, one after the other.

        chosen, then rejected      reward 1
        rejected, then chosen      reward 0

    So the Bradley-Terry model of a group is that of score(chosen, rejected) - score(rejected, chosen), which changes
    its sign when the answers change places.
    """
    groups = []
    for better in written:
        for worse in (one for one in written if one.reward < better.reward):
            orders = [(1.0, [*better.spans, *worse.spans]), (0.0, [*worse.spans, *better.spans])]
            both = [Written(spans, reward).trajectory(prompt, author) for reward, spans in orders]
            groups.append(Group(prompt, both, author))
    return groups


@grouped_by(in_both_orders, joins_answers=True)
@brings("rewards")
def answer_pairs(
    stream: PromptStream, comparisons: Mapping[str, list[Written]], rollout: Rollout, author: str
) -> Source:
    """The rows' pairs, both answers in one trajectory, in both orders: for a model that compares answers."""
    return Preferences(stream, comparisons, rollout.prompts_per_step, author, in_both_orders)


@brings("turn_rewards")
def step_labels(stream: PromptStream, solutions: Mapping[str, list[Written]], rollout: Rollout, author: str) -> Source:
    """The rows' solutions, each step a turn whose reward is the step's label."""
    return Preferences(stream, solutions, rollout.prompts_per_step, author)


@brings("rewards", "turn_rewards")
def recorded(stream: PromptStream, solutions: Mapping[str, list[Written]], rollout: Rollout, author: str) -> Source:
    """Trajectories that were sampled before, with the rewards of their turns (`transform: recorded_episodes`)."""
    return Preferences(stream, solutions, rollout.prompts_per_step, author)


@dataclass
class Demonstrations(OfStream):
    """Rows to imitate, as groups of one trajectory, which was not sampled."""

    written: Mapping[str, Written]
    count: int
    author: str = ACTOR

    def collect(self, seed: int) -> Collected:
        groups = [
            Group(prompt, [self.written[prompt.id].trajectory(prompt, self.author)], self.author)
            for prompt in self.stream.take(self.count)
        ]
        lengths = [t.completion_tokens for group in groups for t in group.trajectories]
        return Collected(groups, {"completion_tokens": sum(lengths) / len(lengths)})


@dataclass
class Preferences(OfStream):
    """Rows of several completions, as groups that were not sampled."""

    comparisons: Mapping[str, list[Written]]
    count: int
    author: str = ACTOR
    groups: Callable[[Prompt, Sequence[Written], str], list[Group]] = compared_groups

    def collect(self, seed: int) -> Collected:
        taken = self.stream.take(self.count)
        groups = [group for prompt in taken for group in self.groups(prompt, self.comparisons[prompt.id], self.author)]
        lengths = [t.completion_tokens for group in groups for t in group.trajectories]
        return Collected(groups, {"completion_tokens": sum(lengths) / len(lengths)})


CATALOGUE: dict[str, Callable[..., Any]] = {
    source.__name__: source
    for source in (
        rollouts,
        filtered_rollouts,
        demonstrations,
        preferences,
        answer_pairs,
        step_labels,
        recorded,
        evolved_prompts,
        prompted_pairs,
        spliced_paths,
        criticized_paths,
        relabelled,
        replayed,
        regenerated_turns,
    )
}
"""The built-in sources, by the names that recipes use."""
