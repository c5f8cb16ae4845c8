"""From a recipe's names to pieces: every axis resolved, every piece tried, every combination checked.

All of this happens before anything loads; one RecipeError has every fault.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.algorithm import Algorithm, Weighted
from llmrl.axes import AXES, BY_KEY, CHAIN, ONE, Axis
from llmrl.combinations import refused
from llmrl.data.files import Row
from llmrl.data.forms import COMPARISONS, DEMONSTRATIONS, QUESTIONS, SOLUTIONS
from llmrl.data.row_tools import RowTools
from llmrl.engines.catalogue import check_engine
from llmrl.errors import RecipeError, gathered, unknown_name
from llmrl.fields import BY_NAME, PACKED, PROVIDED, names
from llmrl.other_policies import replay_faults, written_by_faults
from llmrl.pieces import Piece, bind, catalogue, resolve
from llmrl.probe import probe, probe_allocation, probe_controller, unread
from llmrl.recipe import Recipe
from llmrl.recipe_moves import compared_texts
from llmrl.rewards.catalogue import CATALOGUE as REWARDS
from llmrl.rewards.reward import Reward, verdict_faults
from llmrl.rollout import weight_transport
from llmrl.rollout.catalogue import CATALOGUE as SAMPLERS
from llmrl.rollout.moves import Asked
from llmrl.types import DATASET


@dataclass(frozen=True)
class Pieces:
    """One role's pieces: its algorithm, and the pieces that gather trajectories for the algorithm.

    providers: every provider by the field that it provides.
    """

    algorithm: Algorithm
    source: Piece
    env: Piece
    keep: Piece
    allocate: Piece | None
    providers: Mapping[str, Piece]

    @property
    def samples(self) -> bool:
        """Whether the source samples trajectories."""
        return self.algorithm.samples

    @property
    def gathering(self) -> frozenset[str]:
        """The fields that `keep` and `allocate` read before there is a batch."""
        return frozenset(self.keep.data) | frozenset(self.allocate.data if self.allocate else ())


def resolve_pieces(recipe: Recipe) -> Pieces:
    """The pieces of one role. Raises RecipeError with every fault: names, settings, combinations that cannot work,
    data that nobody provides, results of a wrong kind."""
    faults: list[str] = []
    found: dict[str, Any] = {}
    for axis in AXES:
        with gathered(faults):
            found[axis.key] = _of_axis(axis, getattr(recipe, axis.key))
    with gathered(faults):
        check_engine(recipe.training)
    for key, name, valid, what in (
        ("rollout.engine", recipe.rollout.engine, SAMPLERS, "sampler"),
        ("rollout.weight_transport", recipe.rollout.weight_transport, catalogue(weight_transport), "weight transport"),
    ):
        with gathered(faults):
            piece = resolve(name, valid, key=key, what=what)
            faults += [
                unknown_name(f"{key}.{name}", asked, OUTSIDE_DATA[key], "data, for its positional parameter,")
                for asked in piece.data
                if asked not in OUTSIDE_DATA[key]
            ]
    if faults:
        raise RecipeError(*faults)
    providers = _providers(found.pop("providers"))
    faults = [fault for key in ("learn_from", "env", "keep") for fault in _unread_outside(key, found[key])]
    outside = {"source": found.pop("learn_from"), **{key: found.pop(key) for key in ("env", "keep", "allocate")}}
    if outside["allocate"]:
        faults += probe_allocation(outside["allocate"])
    source: Piece = outside["source"]
    given = frozenset(source.mark("brings") or ())
    algorithm = Algorithm(**found, samples="collector" in source.data, given=given)
    own = providers.keys() - BY_NAME.keys()
    brought = own | (algorithm.controllers.keys() - BY_KEY["controllers"].pieces.keys())
    tried = {name: piece for name, piece in algorithm.controllers.items() if name in algorithm.needs | brought}
    written = recipe.data.train.components or range(recipe.model.heads)
    parts = len(trained_on(recipe) if algorithm.samples else written)
    sizes = {
        "outputs": recipe.critic.outputs,
        "rewards": parts,
        "heads": 1 if recipe.model.gate else recipe.model.heads,
    }
    sizes |= {"past": recipe.history.kept}
    faults += probe(algorithm.placed(), **sizes, provided=brought)
    faults += [fault for piece in tried.values() for fault in probe_controller(piece)]
    distinct = {id(piece): piece for piece in providers.values()}.values()
    faults += [fault for piece in distinct for fault in _unread_provider(piece, own)]
    faults = faults or [*refused(recipe, algorithm), *_source_faults(recipe, algorithm, outside["source"])]
    faults += replay_faults(source, algorithm)
    if source.mark("joins_answers") and (not algorithm.scores or algorithm.scores_tokens):
        faults.append(
            f"learn_from: {source.name} puts two answers into one text, which only a reward model of whole texts can "
            f"compare; use preference_loss: bradley_terry, or learn_from: preferences"
        )
    faults += written_by_faults(recipe, algorithm, outside["keep"], outside["allocate"])
    faults += _reward_faults(recipe)
    if faults:
        raise RecipeError(*faults)
    return Pieces(algorithm, providers=providers, **outside)


def resolve_moves(recipe: Recipe) -> list[Asked]:
    """The moves of a stage as they are played; raises RecipeError for a `choose` that is no function of a group."""
    axis = BY_KEY["keep"]
    found: list[Asked] = []
    faults: list[str] = []
    for name, move in recipe.moves.items():
        key, piece = f"moves.{name}.choose", None
        with gathered(faults):
            piece = None if move.choose is None else resolve(move.choose, axis.pieces, key=key, what=axis.what)
        if piece and set(piece.data) != {"group"}:
            faults.append(f"{key}: {piece.name} reads {', '.join(piece.data)}; expected a function of the group alone")
        found.append(Asked(name, move, piece))
    if faults:
        raise RecipeError(*faults)
    return found


def _seat_faults(env: Piece, recipe: Recipe) -> list[str]:
    """The faults of an environment that seats roles which the recipe does not have."""
    key = env.mark("seats")
    named = [name for name in env.setting(key) or () if ":" not in name] if key else []
    unknown = [name for name in named if name not in recipe.by_role]
    return [unknown_name(f"env.{env.name}.{key}", name, recipe.by_role, "role of the recipe") for name in unknown]


def faults_of_play(pieces: Mapping[str, Pieces], recipe: Recipe) -> list[str]:
    """The faults of what is played beside the methods of the authors: a role that is seated and not there, a `choose`
    that is none, one text that has to be compared, rows' texts that are taken for one's own.

    pieces: by role, of those roles that have no faults.
    """
    faults = _seat_faults(next(iter(pieces.values())).env, recipe) if pieces else []
    for name, move in recipe.moves.items():
        if not recipe.by_role[move.by].trained or not move.learned_from:
            continue
        if move.replayed:
            faults += _taken_for_own(name, move.by, pieces[move.by]) if move.by in pieces else []
            continue
        if compared_texts(name, recipe.moves, recipe.rollout.group_size) > 1:
            continue
        for key, piece in pieces[move.by].algorithm.placed() if move.by in pieces else ():
            if "group_ids" in piece.data:
                more = "rollout.group_size" if name == next(iter(recipe.moves)) else f"moves.{name}.samples"
                faults.append(f"{more}: 1, but {key} of {move.by} compares its texts ({piece.name}); give at least 2")
    for role, view in recipe.by_role.items() if recipe.learn_from == BY_KEY["learn_from"].default else ():
        own = [name for name, move in recipe.moves.items() if move.by == role]
        if view.trained and own and not any(recipe.moves[name].learned_from for name in own):
            faults.append(
                f"roles.{role}.trained: true, but nothing of {role} is learned from ({', '.join(own)}); set it to "
                f"false, or let {role} learn from a move that it samples"
            )
    with gathered(faults):
        resolve_moves(recipe)
    return faults


def _taken_for_own(move: str, author: str, pieces: Pieces) -> list[str]:
    """The fault of a loss that takes the rows' texts of a move for those of the move's author."""
    loss = pieces.algorithm.policy_loss
    masked = any(weight.mark("drops_other_writers") for weight in pieces.algorithm.token_weights)
    if loss is None or "advantages" not in loss.data or masked:
        return []
    return [
        f"moves.{move}: its texts are the rows', and policy_loss {loss.name} of {author} takes them for its own; add "
        f"token_weights: {{policy_completions: {{}}}}, or set moves.{move}.trained: false"
    ]


def _of_axis(axis: Axis, spec: Any) -> Any:
    """The pieces of one axis: a piece or none, a chain of pieces, weighted ones, or all controllers."""
    if axis.kind == ONE:
        return None if spec is None else resolve(spec, axis.pieces, key=axis.key, what=axis.what)
    if axis.kind == CHAIN:
        chain = _chain(axis, spec)
        if axis.key == "controllers":  # a controller runs if a piece reads it; the recipe only has its settings
            named = {piece.name: piece for piece in chain}
            built_in = {name: named.get(name) or bind(name, f, {}, key=axis.key) for name, f in axis.pieces.items()}
            own = {piece.function.__name__: piece for piece in chain if piece.name not in built_in}
            return built_in | own
        return chain
    return _weighted(axis, spec)


def _chain(axis: Axis, specs: Mapping[str, Any]) -> tuple[Piece, ...]:
    found: list[Piece] = []
    faults: list[str] = []
    for name, settings in specs.items():
        with gathered(faults):
            found.append(resolve({name: settings}, axis.pieces, key=axis.key, what=axis.what))
    if faults:
        raise RecipeError(*faults)
    return tuple(found)


def _weighted(axis: Axis, specs: Mapping[str, Mapping[str, Any] | None]) -> tuple[Weighted, ...]:
    """`{kl_k3: {weight: 0.001}}` as weighted pieces."""
    found: list[Weighted] = []
    faults: list[str] = []
    for name, settings in specs.items():
        settings = dict(settings or {})
        weight, tokens = settings.pop("weight", None), settings.pop("tokens", None)
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
            faults.append(f"{axis.key}.{name}.weight: expected a number, got {weight!r}")
            weight = 0.0
        if tokens is not None and axis.key != "regularizers":
            faults.append(f"{axis.key}.{name}.tokens: only a regularizer can be limited to some tokens")
            continue
        with gathered(faults):
            piece = resolve({name: settings}, axis.pieces, key=axis.key, what=axis.what)
            if tokens is not None:
                weights = BY_KEY["token_weights"]
                tokens = resolve(tokens, weights.pieces, key=f"{axis.key}.{name}.tokens", what=weights.what)
            found.append(Weighted(piece, float(weight), tokens))
    if faults:
        raise RecipeError(*faults)
    return tuple(found)


def _providers(chain: tuple[Piece, ...]) -> dict[str, Piece]:
    """Every provider by its field: the built-in ones, with the recipe's settings and its own ones over them."""
    axis = BY_KEY["providers"]
    named = {piece.name for piece in chain}
    fields = [field for piece in chain for field in fields_of(piece)]
    if twice := {field for field in fields if fields.count(field) > 1}:
        raise RecipeError(f"providers: {', '.join(sorted(twice))} has two providers in the recipe; leave one out")
    built_in = [bind(name, f, {}, key=axis.key) for name, f in axis.pieces.items() if name not in named]
    return {field: piece for piece in (*built_in, *chain) for field in fields_of(piece)}


def fields_of(provider: Piece) -> tuple[str, ...]:
    """The fields that a provider provides."""
    return provider.mark("provides") or (provider.function.__name__,)


OUTSIDE_DATA = {
    "rollout.engine": (
        "folder",
        "tokenizer",
        "dtype",
        "device",
        "max_model_len",
        "max_concurrent",
        "options",
        "adapters",
    ),
    "rollout.weight_transport": ("weights", "sampler", "policy_version"),
}
"""The data that makers of samplers and weight transports may name."""
PROVIDER_DATA = frozenset(
    {"batch", "groups", "policy", "reference", "critic", "past", "tokenizer", "seed", "share_done", "wanted", "reading"}
    | {"collector", "params", "measured_once", "critic_target", "steps_done"}
)
"""The data other than fields that a provider may read: see llmrl/providers."""


def _unread_provider(piece: Piece, own: set[str]) -> list[str]:
    known = PROVIDER_DATA | names(PACKED, PROVIDED) | own
    return [
        f"providers.{piece.name}: no data named '{name}', for its positional parameter; valid: "
        f"{', '.join(sorted(PROVIDER_DATA))}, and the fields of a batch"
        for name in piece.data
        if name not in known
    ]


def _unread_outside(key: str, piece: Piece) -> list[str]:
    provided = names(PROVIDED) if key == "keep" else ()
    return [] if set(piece.data) <= BY_KEY[key].reads | set(provided) else unread(key, piece, provided)


def _source_faults(recipe: Recipe, algorithm: Algorithm, source: Piece) -> list[str]:
    """The faults of a recipe that lacks the rows or rewards that its source needs."""
    faults = []
    rows = recipe.data.train
    named = rows.names_columns and rows.transform is None
    if DEMONSTRATIONS in source.data and named and rows.completion is None:
        faults.append(f"learn_from: {source.name} needs data.train.completion (the text to imitate)")
    reads_rows = COMPARISONS in source.data or DATASET in recipe.rollout.written_by
    if reads_rows and named and not rows.compares:
        reader = f"learn_from: {source.name}" if COMPARISONS in source.data else f"rollout.written_by: {DATASET}"
        faults.append(
            f"{reader} needs the texts to compare: data.train.chosen and rejected, completion and "
            "label, or completions and scores"
        )
    if SOLUTIONS in source.data and named and rows.steps is None:
        faults.append(f"learn_from: {source.name} needs data.train.steps and step_labels (a solution and its labels)")
    scored = "collector" in source.data and "rewards" not in (source.mark("brings") or ())
    judged = algorithm.has_critic and recipe.critic.frozen and "rewards" not in algorithm.needs
    if scored and not recipe.rewarded and recipe.trained and not judged:
        faults.append(
            f"learn_from: {source.name} needs at least one reward under rewards, such as math_verifier: {{}}, or an "
            f"environment that rewards"
        )
    return faults


def read_for(recipe: Recipe) -> str | None:
    """The use of llmrl.data.forms that the recipe's source has for rows; None if `learn_from` names none."""
    try:
        source = _of_axis(BY_KEY["learn_from"], recipe.learn_from)
    except RecipeError:
        return None
    read = {*source.data, *([COMPARISONS] if DATASET in recipe.rollout.written_by else [])}
    return next((gives for gives in (DEMONSTRATIONS, COMPARISONS, SOLUTIONS) if gives in read), QUESTIONS)


def brought_tools(recipe: Recipe) -> RowTools | None:
    """The function that gives the schemas of the environment's tools for a row; None for an environment without."""
    piece: Piece = _of_axis(BY_KEY["env"], recipe.env)
    schemas = piece.mark("tools")
    if schemas is None:
        return None
    settings = {name: piece.setting(name) for name in inspect.signature(piece.function).parameters}
    settings = {name: value for name, value in settings.items() if name not in piece.data}

    def of_row(row: Row) -> Sequence[Any]:
        try:
            return schemas(row, **settings)
        except ValueError as error:
            raise RecipeError(f"env.{piece.name}: {error}") from None

    return of_row


def trained_on(recipe: Recipe) -> list[str]:
    """The names of the rewards that have a weight; one of weight 0 is measured alone."""
    return [name for name, settings in recipe.rewards.items() if (settings or {}).get("weight", 1.0)]


def _reward_faults(recipe: Recipe) -> list[str]:
    """The faults of rewards that read verdicts which no other reward gives."""
    try:
        return verdict_faults(_rewards(recipe))
    except RecipeError:  # told where the rewards are made
        return []


def _rewards(recipe: Recipe) -> list[Reward]:
    return [Reward.from_spec(name, settings or {}) for name, settings in recipe.rewards.items()]


def check_grades(recipe: Recipe, algorithm: Algorithm) -> None:
    """Raises RecipeError if a piece reads grades that the rewards do not give, or not one for each output."""
    if not (algorithm.predicts_grades or "grades" in algorithm.needs):
        return
    giving = {reward.name: reward.grades for reward in _rewards(recipe) if reward.grades}
    if not giving:
        known = ", ".join(name for name, function in REWARDS.items() if hasattr(function, "grades"))
        raise RecipeError(
            f"rewards: a piece reads grades, but none of {', '.join(recipe.rewards)} gives any; use a verifier "
            f"that does{f' ({known})' if known else ''}, or mark your own with llmrl.marks.gives_grades"
        )
    outputs = recipe.critic.outputs
    faults = [
        f"critic.outputs: {outputs}, but rewards.{name} gives {grades} grades; give one output for each"
        for name, grades in giving.items()
        if algorithm.predicts_grades and grades != outputs
    ]
    if faults:
        raise RecipeError(*faults)
