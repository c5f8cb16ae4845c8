"""Arithmetic on models: a base plus a weighted sum of differences of other models.

    theta = theta_base + sum_k w_k (theta_k+ - theta_k-)

Sums are made in fp64, one weight at a time, and rounded once, to fp32. A LoRA adapter counts as its base plus the
product of its factors. Where both sides of a difference have the same base, that base is left out of the sum, so that
nothing of a small product is lost in it. (Factors cannot be added up instead: the product of sums has cross terms.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from llmrl.errors import RecipeError, first_line, short
from llmrl.models.loading import is_reward_model, load_tokenizer
from llmrl.models.weights import Weights, adapted_layers, adapter_parameters, base_weights, change_of
from llmrl.recipe import Merge

Locate = Callable[[str, str], Path]
"""From a key of the recipe and the path under it to the folder, or hub name, that holds such a model."""
ADAPTER = "adapter_config.json"
OF_TEXTS = {"bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type"}
OF_FILES = {"_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"}
OF_TRAINING = {"use_cache", "initializer_range"}
IGNORED = OF_TEXTS | OF_FILES | OF_TRAINING
"""Entries of a config that do not change the function that the weights compute; nor do those about dropout."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a LoRA adapter and no whole model."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path, key: str) -> str:
    """The base that an adapter was trained on; raises RecipeError for an adapter that does more than add products."""
    settings = PeftConfig.from_pretrained(str(folder))
    more = [
        name
        for name, given in {
            "use_dora": getattr(settings, "use_dora", False),
            "bias": getattr(settings, "bias", "none") != "none",
            "modules_to_save": getattr(settings, "modules_to_save", None),
        }.items()
        if given
    ]
    if not isinstance(settings, LoraConfig) or more:
        kind = str(getattr(settings.peft_type, "value", settings.peft_type))
        kind = f"{kind} with {', '.join(more)}" if more else kind
        raise RecipeError(f"{key}: '{folder}' is an adapter of type {kind}; expected LoRA alone, or a merged model")
    return str(settings.base_model_name_or_path)


def check_alike(folders: Mapping[str, Path]) -> None:
    """Raises RecipeError for each model whose config or tokenizer differs from the first one's, by its key."""
    (_, first), *others = folders.items()
    config, tokens = _config(first), load_tokenizer(first).get_vocab()
    faults = []
    for key, folder in others:
        own = _config(folder)
        if different := [name for name in sorted(config | own) if config.get(name) != own.get(name)]:
            told = ", ".join(f"{name} {short(own.get(name))}, not {short(config.get(name))}" for name in different[:3])
            faults.append(f"{key}: '{folder}' is of another shape than the base '{first}': {told}")
        elif (own_tokens := load_tokenizer(folder).get_vocab()) != tokens:
            differing = sorted(token for token, _ in own_tokens.items() ^ tokens.items())
            told = ", ".join(map(repr, dict.fromkeys(differing[:3])))
            faults.append(f"{key}: '{folder}' has another tokenizer than the base '{first}': they differ in {told}")
    if faults:
        raise RecipeError(*faults)


def _config(folder: Path) -> dict[str, Any]:
    """The entries of a config that the weights' function depends on, and the kind of model."""
    config = AutoConfig.from_pretrained(str(folder))
    entries = {name: value for name, value in config.to_dict().items() if name not in IGNORED and "drop" not in name}
    return entries | {"reward model": is_reward_model(config)}


@dataclass
class Geometry:
    """The sizes of vectors and the angles between them, summed weight by weight.

    products: fp64 [K, K], the vectors' inner products.
    """

    names: Sequence[str]
    products: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.products = torch.zeros(len(self.names), len(self.names), dtype=torch.float64)

    def see(self, changes: Sequence[Tensor]) -> None:
        """Add one weight's part of each vector: fp64."""
        flat = torch.stack([change.flatten() for change in changes])
        self.products += flat @ flat.T

    def note(self) -> dict[str, dict[str, float]]:
        """norms: of each vector; cosines: of each pair, by "one, other", nan where one of them is 0."""
        norms = self.products.diagonal().sqrt().tolist()
        pairs = {f"{self.names[i]}, {self.names[j]}": (i, j) for i, j in combinations(range(len(norms)), 2)}
        cosines = {
            pair: float(self.products[i, j]) / (norms[i] * norms[j]) if norms[i] and norms[j] else math.nan
            for pair, (i, j) in pairs.items()
        }
        return {"norms": dict(zip(self.names, norms, strict=True)), "cosines": cosines}


Tensors = Callable[[str], Tensor | None]
"""From a weight's name to the weight, or to an adapter's change of it; None where an adapter has none."""
Terms = Mapping[Path, float]
"""Folders of models and adapters, each with its factor in a sum."""


class Sum:
    """The sum that a recipe asks for.

    model, folder: of the base. geometry: of the vectors, known once all weights are made. Raises RecipeError for models
    of other shapes or tokenizers, and for those that lack weights.
    """

    def __init__(self, spec: Merge, locate: Locate):
        parts = {key: parts_of(locate(key, path), key, locate) for key, path in spec.parents.items()}
        check_alike({key: folders[0] for key, folders in parts.items()})
        models: dict[Path, Any] = {}
        self._tensors: dict[Path, Tensors] = {}
        for key, (folder, *adapters) in parts.items():
            if folder not in models:
                models[folder] = _load(folder, key)
                self._tensors[folder] = dict(base_weights(models[folder])).get
            for adapter in adapters:
                self._tensors[adapter] = _changes(adapter, models[folder].config, key)
        base = parts["model.merge.base"]
        self.folder, self.model = base[0], models[base[0]]
        self._base: Terms = dict.fromkeys(base, 1.0)
        self._vectors = [_difference(parts, name, base) for name in spec.vectors]
        self._scales = [vector.weight for vector in spec.vectors.values()]
        self.geometry = Geometry(list(spec.vectors))

    @torch.no_grad()
    def weights(self) -> Weights:
        """Each weight of the sum, fp32, by Hugging Face name; what is no floating-point number comes from the base."""
        for name, weight in base_weights(self.model):
            if not weight.is_floating_point():
                yield name, weight
                continue
            total = self._added(self._base, name, weight.shape)
            changes = [self._added(vector, name, weight.shape) for vector in self._vectors]
            self.geometry.see(changes)
            for scale, change in zip(self._scales, changes, strict=True):
                total += scale * change
            yield name, total.float()

    def _added(self, terms: Terms, name: str, shape: torch.Size) -> Tensor:
        """The weighted sum of one weight over some terms: fp64."""
        total = torch.zeros(shape, dtype=torch.float64)
        for folder, factor in terms.items():
            if (found := self._tensors[folder](name)) is not None:
                total += factor * found.double()
        return total


def parts_of(folder: Path, key: str, locate: Locate) -> tuple[Path, ...]:
    """The folder of a whole model, and behind it that of an adapter, if `folder` holds one; their sum is the model."""
    if not is_adapter(folder):
        return (folder,)
    return locate(f"{key}, an adapter on", base_of(folder, key)), folder


def _difference(parts: Mapping[str, Sequence[Path]], name: str, base: Sequence[Path]) -> Terms:
    """plus less minus, without what both have."""
    found = Counter(parts[f"model.merge.vectors.{name}.plus"])
    found.subtract(parts.get(f"model.merge.vectors.{name}.minus", base))
    return {folder: float(factor) for folder, factor in found.items() if factor}


def _load(folder: Path, key: str) -> Any:
    """The model with its own dtype; raises RecipeError for weights that the folder lacks."""
    scores = is_reward_model(AutoConfig.from_pretrained(folder))
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, told = kind.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"{key}: cannot load '{folder}': {first_line(error)}") from None
    finally:
        logging.set_verbosity(before)
    if missing := sorted(told["missing_keys"]):
        raise RecipeError(f"{key}: '{folder}' lacks {len(missing)} of its weights, such as {', '.join(missing[:3])}")
    return model


def _changes(folder: Path, config: Any, key: str) -> Tensors:
    """An adapter's change of each weight of a model with such a config."""
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config)
        try:
            adapted = PeftModel(outline, PeftConfig.from_pretrained(str(folder)))
            found = load_peft_weights(str(folder), device="cpu")
        except (OSError, ValueError) as error:
            raise RecipeError(f"{key}: cannot load the adapter '{folder}': {first_line(error)}") from None
    factors = adapter_parameters(adapted)
    if differing := sorted(factors.keys() ^ found.keys()):
        told = f"only one of them has {', '.join(differing[:3])}"
        raise RecipeError(f"{key}: the adapter '{folder}' does not fit its base: {told}")
    names = {id(factor): name for name, factor in adapted.named_parameters()}
    adapted.load_state_dict({names[id(factors[name])]: found[name] for name in found}, strict=False, assign=True)
    layers = adapted_layers(adapted)
    return lambda name: change_of(layers[name]) if name in layers else None
