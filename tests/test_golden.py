"""Three steps of every method give the numbers of golden/runs.json: bit for bit on a machine like the one it is from.

Where a change of the numbers is meant, scripts/golden_runs.py rewrites the file and says what changed.
"""

from __future__ import annotations

import pytest
import torch
from golden import recipes, records

GOLDEN = records.read()
SHOWN = 20


def _either(policy: float | None, critic: float | None) -> float | None:
    return critic if policy is None else policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    threads = torch.get_num_threads()
    yield recipes.lay_out(tmp_path_factory.mktemp("golden"))
    torch.set_num_threads(threads)


def test_the_file_has_exactly_the_runs_there_are():
    assert sorted(GOLDEN["runs"]) == sorted(recipes.names())


def test_the_starts_are_the_same_on_every_machine(folder):
    assert records.header(folder)["starts"] == GOLDEN["header"]["starts"]


@pytest.mark.parametrize("name", sorted(GOLDEN["runs"]))
def test_a_run_has_a_gradient_in_every_step(name):
    """A run that trains nothing would hold nothing fast. Where only the critic is trained, it is the critic's."""
    metrics = GOLDEN["runs"][name]["metrics"]
    steps = [place for place in GOLDEN["runs"][name]["rows"] if not place.endswith(" 0")]
    policies = [key for key in metrics if key.rpartition("/")[2] == "grad_norm"]
    for key in policies:  # one for each role that is trained
        critic = metrics.get(key.replace("grad_norm", "critic_grad_norm"), metrics[key])
        norms = [norm for norm in map(_either, metrics[key], critic) if norm is not None]
        assert len(norms) == len(steps) and min(norms) > 0
    assert policies


@pytest.mark.parametrize("name", recipes.names())
def test_a_run_gives_what_it_gave(name, folder):
    exact = records.header(folder) == GOLDEN["header"]
    changed = records.differences(GOLDEN["runs"][name], recipes.run(name, folder), exact=exact)
    assert not changed, "\n".join([f"{len(changed)} numbers changed", *changed[:SHOWN]])
