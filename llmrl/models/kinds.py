"""The kinds of models that folders hold, told by their config.json alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrl.errors import RecipeError, first_line, nearest

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
"""The ends of the names of transformers' classes that are reward models; all others are language models."""

CONTEXT = "critic_context"
"""In a saved critic's config: the text that it was trained to read beside the prompt, if any."""


@dataclass(frozen=True)
class Kind:
    """A kind of model. end: of its class's name; None: a language model. compares: it reads two answers at once."""

    name: str
    end: str | None
    compares: bool = False


LANGUAGE_MODEL = Kind("language model", None)
REWARD_MODEL = Kind("reward model of completions", "ForSequenceClassification")
STEP_REWARD_MODEL = Kind("reward model of steps (a token classifier)", "ForTokenClassification")
PREFERENCE_MODEL = Kind("preference model", "ForSequenceClassification", compares=True)


def expect(folder: str | Path, kind: Kind) -> None:
    """Read the config of a folder; raises RecipeError unless it is of this kind of model."""
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        guess = nearest_folder(folder)
        hint = f"; did you mean '{guess}'?" if guess else ""
        raise RecipeError(f"'{folder}' has no config.json; expected the folder of a trained {kind.name}{hint}")
    try:
        config: dict[str, Any] = dict(json.loads((folder / "config.json").read_text()))
    except (ValueError, TypeError) as error:
        raise RecipeError(f"'{folder}/config.json' cannot be read: {first_line(error)}") from None
    classes = config.get("architectures") or ["none"]
    found = next((end for end in CLASSIFIERS if any(name.endswith(end) for name in classes)), None)
    if found != kind.end:
        raise RecipeError(f"'{folder}' holds {', '.join(classes)}, no {kind.name}")
    if bool(config.get("compares_answers")) != kind.compares:
        single, pairs = "scores single answers", "compares two answers"
        does, wanted = (single, pairs) if kind.compares else (pairs, single)
        raise RecipeError(f"'{folder}' holds a model that {does}, expected one that {wanted}")
    if config.get(CONTEXT):
        raise RecipeError(f"'{folder}' {reads_context(config[CONTEXT])}")


def reads_context(context: str) -> str:
    """The fault of a critic with a context of its own that is to score prompts and answers alone."""
    return f"holds a critic that was trained to read {context!r} beside the prompt, which it would lack here"


def nearest_folder(folder: Path) -> Path | None:
    """The folder of a model that was probably meant: the `final` of a run, or one with a name that is spelt alike."""
    if (folder / "final" / "config.json").is_file():
        return folder / "final"
    for missing in (folder, *folder.parents):
        if missing.parent.is_dir():
            rest = folder.relative_to(missing)
            others = [one for one in missing.parent.iterdir() if (one / rest / "config.json").is_file()]
            guess = nearest(missing.name, [one.name for one in others])
            return missing.parent / guess / rest if guess else None
    return None
