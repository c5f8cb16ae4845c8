"""A tokenizer's chat template as a recipe has it: read from a file, and with values for the variables that it reads."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.nodes import Template

from llmrl.errors import RecipeError, first_line, nearest, unknown_name

GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token"})
"""The variables that transformers sets."""

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def from_file(name: str | Path) -> str:
    """Return the template in a Jinja file; raises RecipeError if there is none, or if it is not valid Jinja.

    A relative path is looked for in the working directory and then where modules are, as in the recipe's own folder.
    """
    file = next((found for folder in ("", *sys.path) if (found := Path(folder, name)).is_file()), Path(name))
    if not file.is_file():
        guess = nearest(file.name, [f.name for f in file.parent.iterdir()] if file.parent.is_dir() else [])
        hint = f"; did you mean '{file.parent / guess}'?" if guess else ""
        raise RecipeError(f"model.chat_template: no file '{file}'{hint}")
    try:
        text = file.read_text(encoding="utf-8")
        _parsed(text)
    except UnicodeDecodeError as error:
        raise RecipeError(f"model.chat_template: '{file}' is not UTF-8 text: {error}") from None
    except TemplateSyntaxError as error:
        raise RecipeError(f"model.chat_template: {file}:{error.lineno}: not valid Jinja: {first_line(error)}") from None
    return text


def with_defaults(template: Any, values: Mapping[str, Any]) -> str:
    """Return the template behind statements that give these variables a value where the caller gives none.

    Who renders the template later, as a server of the exported model does, gets the prompts of training. Raises
    RecipeError for a variable that the template does not read.
    """
    key = "model.chat_template_kwargs"
    if not isinstance(template, str):
        raise RecipeError(f"{key}: the tokenizer has no chat template to read them; set model.chat_template")
    try:
        read = find_undeclared_variables(_parsed(template))
    except TemplateError as error:
        raise RecipeError(f"{key}: the chat template is not valid Jinja: {first_line(error)}") from None
    valid = read - GIVEN - {"raise_exception", "strftime_now"}
    faults = [unknown_name(key, name, valid, "variable of the chat template") for name in values if name not in valid]
    if faults:
        raise RecipeError(*faults)
    defaults = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {value!r} %}}{{%- endif %}}\n"
        for name, value in values.items()
    )
    return template if template.startswith(defaults) else defaults + template


def _parsed(template: str) -> Template:
    return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))


_WHOLE = "{%- set whole %}{{ '' }}"


def ending_at(template: str, token: str) -> str:
    """Return the template that writes nothing after the last `token` of a conversation that the assistant ends.

    Where the template writes no such token it is added, so that a conversation is scored at its end-of-turn token and
    not at a newline after it. A prompt that asks for an answer stays as it is.
    """
    if template.startswith(_WHOLE):
        return template
    answered = "messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt"
    cut = f"(whole.rpartition({token!r})[0] or whole) ~ {token!r}"
    body = template.removesuffix("\n")  # as Jinja does at a template's end
    return f"{_WHOLE}{body}{{{{ '' }}}}{{% endset %}}{{{{ ({cut}) if {answered} else whole }}}}"
