import logging

import pytest

from llm_pipeline.serving.observability.logs import Formatter, hide
from llm_pipeline.serving.protection.keys import new_secret

SECRETS = {
    "ours": new_secret(),
    "dashes": "sk-proj-0123456789abcdef",
    "underscore": "hf_0123456789abcdef",
    "bearer": "Bearer abcdefgh.12345678",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_keys_are_hidden_wherever_they_stand(secret: str) -> None:
    try:
        raise ValueError(f"unexpected {secret} in {{'key': '{secret}'}}")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "x.py", 1, "GET /v1/models?key=%s", (secret,), (ValueError, error, error.__traceback__)
        )
    written = Formatter().format(record)
    assert secret not in written
    assert "GET /v1/models?key=" in written
    assert written.count("...") >= 3


def test_ordinary_words_stay() -> None:
    text = "gateway on port 8088; release 0123456789abcdef; 2026-11-21 llm-pipeline help-me; the bearer of it"
    assert hide(text) == text
