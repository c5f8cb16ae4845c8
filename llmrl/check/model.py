"""The checks of a stage's model that need no weights."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from llmrl.algorithm import Algorithm
from llmrl.check.report import Report, count_text
from llmrl.errors import RecipeError
from llmrl.models.loading import load_tokenizer, stop_token_ids
from llmrl.models.lora import add_lora
from llmrl.models.merging import Locate
from llmrl.models.origins import locate_parent, outline
from llmrl.models.padding_free import try_padding_free
from llmrl.models.routing import require_routers
from llmrl.recipe import Model, Recipe
from llmrl.resolve import Pieces
from llmrl.run.models import Origin, reference_folder

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = "model.safetensors.index.json"
ROUTING = frozenset({"router_drift", "old_router_ids", "old_router_logprobs"})
"""The outputs that only a mixture of experts has."""


@dataclass(frozen=True)
class Shape:
    """The sizes that memory depends on: parameters in all and trained, and the config's.

    queries, key_value: numbers of a token in one layer. head_norms: whether queries and keys are normed. critic: the
    sizes of a critic with a backbone of its own.
    """

    parameters: int
    trained: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    key_value: int
    vocabulary: int
    head_norms: bool = False
    critic: Shape | None = None


@dataclass(frozen=True)
class ModelFound:
    """A stage's starting point: its config and tokenizer on disk, its shape; its weights unread."""

    origin: Origin
    config: Any
    shape: Shape


def check_model(
    recipe: Recipe,
    scratch: Path,
    earlier: Path | None,
    report: Report,
    pieces: Pieces | None = None,
    parent: Locate = locate_parent,
) -> ModelFound:
    """Read config and tokenizer and check that weights are there; raises RecipeError with what is wrong.

    earlier: the outline folder of the stage whose output this one starts from. scratch: where this stage's own
    outline may be written. pieces: whether the model has the routers that they read is checked, if they are known.
    parent: finds the models of a merge.
    """
    source = earlier or outline(recipe.model, scratch, parent)
    tokenizer = load_tokenizer(source, recipe.model.chat_template, recipe.model.chat_template_kwargs)
    config = _config(source)
    configs = [config]
    with contextlib.suppress(OSError):  # a model folder may lack generation_config.json
        configs.append(GenerationConfig.from_pretrained(str(source)))
    origin = Origin(source, tokenizer, stop_token_ids(tokenizer, *configs))
    shape = _shape(config, recipe)
    if recipe.model.path and earlier is None:
        _check_weights(source, report)
    trained = "all trained" if shape.trained == shape.parameters else f"{count_text(shape.trained)} trained (LoRA)"
    ends = ", ".join(tokenizer.convert_ids_to_tokens(list(origin.stop_token_ids)))
    named = f"{_named(recipe, earlier)}: {config.model_type}, {count_text(shape.parameters)} parameters, {trained}"
    report.say("model", f"{named}; {len(tokenizer)} tokens; a completion ends at {ends}")
    _check_positions(config, recipe, "the model's")
    _check_packing(config, recipe, report)
    if pieces:
        _check_routers(config, pieces.algorithm)
    return ModelFound(origin, config, shape)


def with_critic(found: ModelFound, recipe: Recipe, earlier: Path | None, report: Report) -> ModelFound:
    """The model with the shape of a critic that has a backbone of its own; raises RecipeError as `check_model` does.

    earlier: the outline folder of the stage whose output critic.model is.
    """
    config = found.config
    if recipe.critic.model is not None:
        with _of_the_critic():
            source = earlier or outline(Model(path=recipe.critic.model), Path())
            config = _config(source)
            if earlier is None:
                _check_weights(source, report)
        tokens = len(found.origin.tokenizer)
        if config.get_text_config().vocab_size < tokens:
            size = config.get_text_config().vocab_size
            raise RecipeError(f"critic.model: its vocabulary of {size} lacks some of the policy's {tokens} tokens")
        _check_positions(config, recipe, "the critic's")
        _check_packing(config, recipe, report)
    shape = _shape(config, recipe, critic=True)
    start = recipe.critic.model or "from the policy's start"
    report.say("critic", f"{start}: {config.model_type}, {count_text(shape.parameters)} parameters")
    return replace(found, shape=replace(found.shape, critic=shape))


def check_reference(found: ModelFound, recipe: Recipe, report: Report) -> None:
    """Check that the reference that the recipe names has weights, and the policy's tokens."""
    folder = reference_folder(recipe, found.origin)
    _check_weights(folder, report)
    report.say("reference", f"{recipe.reference.model}: {_config(folder).model_type}")


def keep_outline(found: ModelFound, folder: Path) -> Path:
    """Write config and tokenizer into `folder`, for a later stage that starts from this one's output."""
    found.config.save_pretrained(folder)
    found.origin.tokenizer.save_pretrained(str(folder))
    return folder


def _named(recipe: Recipe, earlier: Path | None) -> str:
    model = recipe.model
    if earlier is not None:
        return f"{model.path} (that stage's output)"
    if model.merge is not None:
        vectors = ", ".join(f"{vector.weight:+g} {name}" for name, vector in model.merge.vectors.items())
        return f"{model.merge.base} {vectors}"
    return model.path or (
        "made from scratch" if model.build else f"GGUF of package {model.gguf and model.gguf.package}"
    )


@contextmanager
def _of_the_critic() -> Iterator[None]:
    """Turns the faults of model.path into faults of critic.model."""
    try:
        yield
    except RecipeError as error:
        faults = [fault.replace("model=FOLDER", "critic.model=FOLDER") for fault in error.faults]
        raise RecipeError(*(f"critic.model:{fault.partition(':')[2]}" for fault in faults)) from None


def _config(source: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model: cannot read the config in '{source}': {error}") from None


def _without_weights(config: Any) -> Any:
    """The language model on the meta device."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise RecipeError(f"model: no language model of type '{config.model_type}': {error}") from None


def _check_positions(config: Any, recipe: Recipe, whose: str) -> None:
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = recipe.rollout.max_prompt_tokens + recipe.rollout.max_completion_tokens
    if limit is not None and longest > limit:
        raise RecipeError(
            f"rollout: max_prompt_tokens {recipe.rollout.max_prompt_tokens} + max_completion_tokens "
            f"{recipe.rollout.max_completion_tokens} = {longest}, more than {whose} {limit} positions"
        )


def _check_packing(config: Any, recipe: Recipe, report: Report) -> None:
    """Raises RecipeError if rows are to be packed and the architecture lets them see each other."""
    if recipe.training.padding_free and try_padding_free(config, True) is None:
        report.skipped("padding_free", "a small model of this architecture cannot be made; training tries the real one")


def _check_routers(config: Any, algorithm: Algorithm) -> None:
    """Raises RecipeError if a piece reads routers' outputs and the model has no routers."""
    for key, piece in algorithm.placed():
        if asked := ROUTING & set(piece.data) & algorithm.needs:
            require_routers(_without_weights(config), f"{key}: {piece.name} reads {', '.join(sorted(asked))}, which")


def _shape(config: Any, recipe: Recipe, *, critic: bool = False) -> Shape:
    """The sizes of a model; critic: with a value head in place of the LM head."""
    model = _without_weights(config)
    text = config.get_text_config()
    part, head = (model.base_model, recipe.critic.outputs * (text.hidden_size + 1)) if critic else (model, 0)
    total = sum(p.numel() for p in part.parameters())
    if recipe.model.lora is not None:
        with torch.device("meta"):
            add_lora(model, recipe.model.lora)  # changes the model's own layers
    heads = getattr(text, "num_attention_heads", None) or 0  # none in state-space models
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // max(1, heads)
    return Shape(
        parameters=total + head,
        trained=sum(p.numel() for p in part.parameters() if p.requires_grad) + head,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        queries=heads * head_dim,
        key_value=2 * (getattr(text, "num_key_value_heads", None) or heads) * head_dim,
        vocabulary=text.vocab_size,
        head_norms=any(name.endswith("q_norm") for name, _ in part.named_modules()),
    )


def _check_weights(folder: Path, report: Report) -> None:
    """For a folder: every file that its index names is whole. For a hub name: whether weights are in the cache."""
    if not folder.is_dir():
        cached = any(isinstance(try_to_load_from_cache(str(folder), f), str) for f in (*WEIGHT_FILES, INDEX))
        report.say(
            "weights", "in the hub's cache" if cached else "not in the hub's cache: downloaded when training starts"
        )
        return
    files = _weight_files(folder)
    faults = [fault for file, names in files.items() for fault in _file_faults(file, names)]
    if faults:
        raise RecipeError(*faults)
    report.say("weights", f"{', '.join(f.name for f in files)}: {'whole' if len(files) == 1 else 'all whole'}")


def _weight_files(folder: Path) -> dict[Path, Sequence[str]]:
    """The folder's weight files, each with the tensors that the index says are in it."""
    if (folder / INDEX).is_file():
        try:
            placed: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError) as error:
            raise RecipeError(f"model.path: {folder / INDEX} cannot be read: {error!r}") from None
        files: dict[Path, list[str]] = {}
        for tensor, file in placed.items():
            files.setdefault(folder / file, []).append(tensor)
        return dict(files)
    found = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not found:
        raise RecipeError(f"model.path: folder '{folder}' has no weights (none of {', '.join((*WEIGHT_FILES, INDEX))})")
    return {found[0]: ()}


def _file_faults(file: Path, tensors: Sequence[str]) -> list[str]:
    if not file.is_file():
        return [f"model.path: {INDEX} names {file.name}, which is not in '{file.parent}'"]
    if file.suffix != ".safetensors":
        return []
    try:
        with safe_open(file, framework="pt") as opened:  # reads the header and compares it with the file's length
            missing = sorted(set(tensors) - set(opened.keys()))
    except (SafetensorError, OSError) as error:
        return [f"model.path: '{file}' is not a whole safetensors file: {error}"]
    return [f"model.path: '{file}' lacks {len(missing)} of its tensors, such as {missing[0]}"] if missing else []
