"""The engines by name. Each is imported when it is used, so that only its own package has to be installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmrl.errors import RecipeError, unknown_name
from llmrl.pieces import resolve

if TYPE_CHECKING:
    import torch

    from llmrl.engines.engine import Engine

KEY = "training.strategy"


@dataclass(frozen=True)
class EngineKind:
    """An engine before it is imported.

    factory: module:function, called with (model, training, device). start: module:function that starts the group of
    processes, called with the device before the first engine is made; None: the engine is for one process. check:
    module:function that raises RecipeError for wrong settings of the engine in `training`. own_keys: the keys of
    `training` that no other engine reads. saves_whole: its files hold whole tensors, so that another number of
    processes can load them.
    """

    factory: str
    start: str | None = None
    check: str | None = None
    own_keys: frozenset[str] = frozenset()
    saves_whole: bool = False

    @property
    def several(self) -> bool:
        """Whether it runs over several processes."""
        return self.start is not None


ENGINES = {
    "torch": EngineKind("llmrl.engines.torch_engine:TorchEngine", saves_whole=True),
    "deepspeed": EngineKind(
        "llmrl.engines.deepspeed_engine:DeepSpeedEngine",
        "llmrl.engines.deepspeed_engine:start_process_group",
        own_keys=frozenset({"zero_stage", "deepspeed"}),
    ),
    "accelerate": EngineKind(
        "llmrl.engines.accelerate_engine:AccelerateEngine",
        "llmrl.engines.ranks:start_process_group",
        "llmrl.engines.accelerate_engine:check_settings",
        saves_whole=True,
        own_keys=frozenset({"accelerate"}),
    ),
}
OWN_KEYS = frozenset(key for kind in ENGINES.values() for key in kind.own_keys)


def engine_kind(strategy: str) -> EngineKind:
    """The engine that training.strategy names: a built-in one, or a user's module:function, which gets a process group.

    Raises RecipeError with the nearest name.
    """
    if ":" in strategy:
        return EngineKind(strategy, "llmrl.engines.ranks:start_process_group", own_keys=OWN_KEYS)
    if strategy not in ENGINES:
        raise RecipeError(unknown_name(KEY, strategy, ENGINES, "engine"))
    return ENGINES[strategy]


def check_engine(training: Any) -> None:
    """Raises RecipeError if there is no such engine, a user's cannot be imported, or its settings are wrong."""
    kind = engine_kind(training.strategy)
    if ":" in training.strategy:
        _imported(kind.factory)
    if kind.check:
        _imported(kind.check)(training)


def make_engine(strategy: str, model: Any, training: Any, device: torch.device) -> Engine:
    """The engine, with the model on its device."""
    return _imported(engine_kind(strategy).factory)(model, training, device)


def start_process_group(strategies: Iterable[str], device: torch.device) -> bool:
    """Join the launcher's processes if an engine runs over several; returns whether one does."""
    starts = sorted({kind.start for kind in map(engine_kind, strategies) if kind.start})
    for start in starts:
        _imported(start)(device)
    return bool(starts)


def _imported(path: str) -> Callable[..., Any]:
    return resolve(path, {}, key=KEY, what="engine").function
