"""Answers of a given form: what the tokens of an answer may be, so that it always is the JSON that was asked for (llguidance)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from llm_pipeline.serving.gateway.asgi import HttpError


class Grammars:
    """Matchers for one tokenizer; made in a thread, since a large schema takes a while."""

    def __init__(self, tokenizer: Any, size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=max(size, len(tokenizer)), eos_token=list(end_ids) or None)

    def matcher(self, response_format: Mapping[str, Any]) -> LLMatcher:
        """A fresh matcher for OpenAI's `response_format`; what the schema language does not know is refused, never ignored."""
        whole = response_format["type"] == "json_object"
        schema = {"type": "object"} if whole else response_format["json_schema"]["schema"]
        # White space that is free would let a weak model write it for ever.
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise HttpError(400, f"response_format.json_schema.schema: {matcher.get_error()[:300]}", code="unsupported_schema")
        return matcher
