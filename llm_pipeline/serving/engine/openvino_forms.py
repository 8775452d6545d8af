"""JSON schemas as grammars that OpenVINO GenAI can hold an answer to, with no white space for a weak model to write for ever."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import xgrammar  # type: ignore[import-not-found]

from llm_pipeline.serving.gateway.asgi import HttpError

HELD = frozenset(
    "type properties required additionalProperties items prefixItems minItems maxItems enum const anyOf $ref $defs definitions"
    " minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength title description default examples $schema $id".split()
)
"""What xgrammar neither ignores nor writes in a form that is newer than the one inside OpenVINO GenAI."""
_LITERAL = r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]'


def grammar(response_format: Mapping[str, Any]) -> str:
    """OpenAI's `response_format` in EBNF; what would be ignored is refused (400)."""
    whole = response_format["type"] == "json_object"
    schema = {"type": "object"} if whole else response_format["json_schema"]["schema"]
    if unheld := sorted(set(_unheld(schema))):
        raise _refused(f"this engine cannot hold an answer to {', '.join(unheld)}")
    try:
        made = xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=False, separators=(",", ":"), strict_mode=False)
    except (RuntimeError, ValueError) as error:
        raise _refused(re.sub(r"^\[\S+\] \S+: ", "", str(error).strip())[:300]) from None
    text = re.sub(_LITERAL + r"|\{(\d+), -1\}", lambda m: f"{{{m[1]},}}" if m[1] else m[0], str(made))
    if "(" in re.sub(_LITERAL + r"|(?<![A-Za-z])\(", "", text):  # a function, such as Regex("...")
        raise _refused("this engine's grammar language cannot say it")
    return text


def _refused(reason: str) -> HttpError:
    return HttpError(400, f"response_format.json_schema.schema: {reason}", code="unsupported_schema")


def _unheld(schema: Any) -> Iterator[str]:
    """Keywords anywhere in the schema that an answer would not be held to."""
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        if key not in HELD:
            yield key
        elif key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            for part in value.values():
                yield from _unheld(part)
        elif key in ("anyOf", "prefixItems") and isinstance(value, list):
            for part in value:
                yield from _unheld(part)
        elif key in ("items", "additionalProperties"):
            yield from _unheld(value)
