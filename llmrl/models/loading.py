"""Models as plain Hugging Face folders: loaded for training, and exported.

Such a folder holds config.json, safetensors weights and the tokenizer, and loads with AutoModelForCausalLM.
"""

from __future__ import annotations

import copy
import json
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
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from llmrl.errors import RecipeError, first_line
from llmrl.models.chat_template import from_file, with_defaults
from llmrl.models.kinds import CLASSIFIERS
from llmrl.models.lora import add_lora
from llmrl.models.weights import Rounding, adapter_weights, merged_weights
from llmrl.recipe import Lora

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}


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
    """Whether a folder's config is of a sequence classifier or of a token classifier."""
    return any(name.endswith(CLASSIFIERS) for name in config.architectures or ())


def scores_tokens(config: PretrainedConfig) -> bool:
    """Whether a folder's config is of a token classifier."""
    return any(name.endswith("ForTokenClassification") for name in config.architectures or ())


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
        settings.task_type = "TOKEN_CLS" if scores_tokens(cast(Any, model.get_base_model()).config) else "SEQ_CLS"
        settings.modules_to_save = ["score"]
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
