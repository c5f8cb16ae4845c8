"""The sandboxes of the tests, each of which starts once for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from places import needs

from llmrl.sandbox import BUBBLEWRAP, NAMESPACES, PROCESS, Sandbox, SandboxError
from llmrl.sandbox.tiers import tiers


@pytest.fixture(scope="module", params=tiers(), ids=lambda tier: tier.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each tier that this machine has."""
    needs(request.param)
    with Sandbox(request.param) as sandbox:
        yield sandbox


@pytest.fixture
def forking(sandbox: Sandbox) -> Sandbox:
    if "starting processes" in sandbox.missing:
        pytest.skip(f"tier {sandbox.tier.name}: programs cannot start processes here")
    return sandbox


@pytest.fixture
def fresh(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A new sandbox of the same tier, which has run no other test's program."""
    with Sandbox(sandbox.tier) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def contained() -> Iterator[Sandbox]:
    """A sandbox whose programs have namespaces of their own."""
    reasons = []
    for tier in (NAMESPACES, BUBBLEWRAP):
        try:
            with Sandbox(tier) as sandbox:
                if "starting processes" not in sandbox.missing:
                    yield sandbox
                    return
                reasons.append(f"{tier.name}: no namespaces inside namespaces")
        except SandboxError as error:
            reasons.append(str(error))
    pytest.skip("; ".join(reasons))


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    """A sandbox whose programs have no namespaces of their own."""
    with Sandbox(PROCESS) as sandbox:
        yield sandbox


@pytest.fixture(params=["contained", "bare"])
def filtered(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox with either of the two filters of system calls."""
    return request.getfixturevalue(request.param)
