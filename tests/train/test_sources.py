"""Sources: where a step's groups come from, and a buffer between a source and the step."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from scripted import PARAMS, PROMPTS, asked_of, ids, make, piece, texts

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.data.written import Span, Written
from llmrl.errors import RecipeError
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.selection import everything
from llmrl.train.sources import Demonstrations, Source, demonstrations, rollouts
from llmrl.types import ACTOR, Group

ROLLOUT = Rollout(prompts_per_step=2, group_size=3)
SHOWN = {prompt.id: Written([Span([5, 6 + n])]) for n, prompt in enumerate(PROMPTS)}


def shown(author: str = ACTOR, shuffle: bool = True) -> Source:
    return demonstrations(PromptStream(PROMPTS, 1, shuffle), SHOWN, ROLLOUT, author)


def saved(source: Source) -> Any:
    """Its state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    return torch.load(io.BytesIO(file.getvalue()))


def test_demonstrations_are_groups_of_one_that_nobody_sampled():
    found = shown("tutor", shuffle=False).collect(seed=0)
    assert ids(found.groups) == ["p0", "p1"] and found.sampled == []
    assert [group.author for group in found.groups] == ["tutor"] * 2
    [trajectory] = found.groups[1].trajectories
    assert (trajectory.author, trajectory.turns[0].token_ids) == ("tutor", [5, 7])
    assert found.metrics == {"completion_tokens": 2.0}
    assert pack(found.groups, "tutor").token_ids.tolist() == [[3, 4, 5, 6], [4, 5, 5, 7]]


def test_rollouts_are_sampled_with_the_steps_seed():
    collector = make()
    source = rollouts(
        PromptStream(PROMPTS, 0, False),
        collector,
        Evenly(collector, 3),
        {ACTOR: piece(everything)},
        ROLLOUT,
        lambda seed: PARAMS if seed == 7 else pytest.fail("another seed"),
    )
    found = source.collect(7)
    assert ids(found.groups) == ["p0", "p1"] and len(asked_of(collector)) == 6
    assert ids(source.collect(7).groups) == ["p2", "p3"]


def test_a_sources_place_is_in_its_state():
    source = shown()
    source.collect(0)
    again = shown()
    again.load_state_dict(saved(source))
    assert ids(again.collect(1).groups) == ids(source.collect(1).groups)
    with pytest.raises(RecipeError):
        demonstrations(PromptStream(PROMPTS[:3], 1, True), SHOWN, ROLLOUT, ACTOR).load_state_dict(saved(source))


@dataclass
class Replay:
    """Between another source and the step: each step gets the newest groups and the oldest of those before.

    It asks the other source every second step, and keeps at most `size` groups.
    """

    source: Source
    size: int
    kept: list[Group] = field(default_factory=list)
    steps: int = 0

    def collect(self, seed: int) -> Collected:
        new = self.source.collect(seed).groups if self.steps % 2 == 0 else []
        self.steps += 1
        given = [*new, *self.kept[:1]]
        self.kept = [*self.kept[1:], *new][-self.size :]
        return Collected(given, {"replayed": float(len(given) - len(new))}, new)

    def state_dict(self) -> dict[str, Any]:
        kept = [group.prompt.id for group in self.kept]  # what was shown can be looked up again
        return {"source": self.source.state_dict(), "kept": kept, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state["source"])
        by_id = {prompt.id: prompt for prompt in PROMPTS}
        once = Demonstrations(
            PromptStream([by_id[name] for name in state["kept"]], 0, False), SHOWN, len(state["kept"])
        )
        self.kept, self.steps = once.collect(0).groups, state["steps"]


def test_a_buffer_between_source_and_step_goes_on_where_it_was():
    """Uninterrupted, and saved after each of the first steps: the same groups from there on."""
    whole = Replay(shown(), 3)
    expected = [whole.collect(seed).groups for seed in range(6)]
    assert [len(groups) for groups in expected] == [2, 1, 3, 1, 3, 1]
    assert texts(expected[1]) == texts(expected[0][:1])  # a trajectory of an earlier step comes again
    for stopped in (1, 2, 3):
        first, second = Replay(shown(), 3), Replay(shown(), 3)
        for seed in range(stopped):
            first.collect(seed)
        second.load_state_dict(saved(first))
        found = [second.collect(seed).groups for seed in range(stopped, 6)]
        assert found == expected[stopped:]
