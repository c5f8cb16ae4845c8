"""A role that samples and is never trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrl.models.loading import export, load_language_model
from llmrl.models.weights import Weights, base_weights
from llmrl.run.models import Origin


@dataclass(frozen=True)
class FrozenRole:
    """Untrained weights, read from disk each time a sampler or an export asks for them."""

    origin: Origin

    def weights(self) -> Weights:
        """All weights by Hugging Face name."""
        return base_weights(self._model())

    def export(self, folder: Path, *, writes: bool) -> None:
        """The model as a Hugging Face folder, like those of trained roles."""
        if writes:
            export(self._model(), self.origin.tokenizer, folder)

    def _model(self) -> Any:
        return load_language_model(self.origin.folder)
