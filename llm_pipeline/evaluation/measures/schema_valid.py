"""The answer is one JSON value of the row's `schema` (JSON Schema 2020-12); a Markdown fence around it is allowed."""

from __future__ import annotations

import json
import re

from llm_pipeline.evaluation.measure import Outputs, Row

COLUMNS = ("schema",)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)


def score(row: Row, outputs: Outputs) -> float:
    import jsonschema  # type: ignore[import-untyped]

    try:
        found = json.loads(_FENCE.sub(r"\1", outputs.text.strip()))
    except (ValueError, RecursionError):
        return 0.0
    return float(jsonschema.Draft202012Validator(row["schema"]).is_valid(found))
