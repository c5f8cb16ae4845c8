#!/usr/bin/env bash
# transformers 5.19.0 (jsonschema 4.26.0): the schema that get_json_schema makes of an optional argument refuses null.
#
# `days: int | None = None` becomes {"type": "integer", "nullable": true}. `nullable` is a word of OpenAPI 3.0; JSON
# Schema does not know it, so a validator, and a decoder that is bound to the schema, take null for a fault, although
# the function accepts it and its schema says so to the model. A union with None that has other types than one keeps
# the same word. JSON Schema's own spelling is {"type": ["integer", "null"]}, or "anyOf" with {"type": "null"}.
#
# Seen:
#   | int | None is {"type": "integer", "nullable": true}: nothing valid, 3 valid, null refused (None is not of type 'integer')
#   | int | str | None is {"type": ["integer", "string"], "nullable": true}: nothing valid, 3 valid, null refused (None is not of type 'integer', 'string')
#   | list[int] | None is {"type": "array", "items": {"type": "integer"}, "nullable": true}: nothing valid, 3 refused (3 is not of type 'array'), null refused (None is not of type 'array')
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "transformers==5.19.0" "jsonschema==4.26.0" "jinja2==3.1.6"
"$work/venv/bin/pip" freeze | grep -E '^(transformers|jsonschema|Jinja2|jinja2)=='

cat >"$work/schemas.py" <<'PYTHON'
import json

import jsonschema
from transformers.utils import get_json_schema


def one(days: int | None = None):
    """Say the weather.

    Args:
        days: how far ahead
    """


def several(days: int | str | None = None):
    """Say the weather.

    Args:
        days: how far ahead
    """


def listed(days: list[int] | None = None):
    """Say the weather.

    Args:
        days: how far ahead
    """


def verdict(arguments, schema):
    try:
        jsonschema.validate(arguments, schema)
        return "valid"
    except jsonschema.ValidationError as error:
        return f"refused ({error.message})"


for hint, function in (("int | None", one), ("int | str | None", several), ("list[int] | None", listed)):
    schema = get_json_schema(function)["function"]["parameters"]
    days = {key: value for key, value in schema["properties"]["days"].items() if key != "description"}
    tried = {"nothing": {}, "3": {"days": 3}, "null": {"days": None}}
    print(f"{hint} is {json.dumps(days)}: " + ", ".join(f"{name} {verdict(a, schema)}" for name, a in tried.items()))
PYTHON

export HF_HUB_OFFLINE=1 HF_HOME=$work/nothing_here
timeout 300 "$work/venv/bin/python" "$work/schemas.py" 2>/dev/null | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "transformers no longer does what is stated here" >&2
    exit 1
fi
