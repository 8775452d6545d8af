"""Price of an answer: its tokens at the row's `prices` per million, and its seconds at the price of a device-hour."""

from __future__ import annotations

from typing import Any

from llm_pipeline.errors import ConfigError, near
from llm_pipeline.evaluation.measure import Answered, Outputs, Row

COLUMNS = ("prices",)
LOWER_IS_BETTER = True
_PRICES = ("input_per_million", "output_per_million", "device_hour", "currency")


def score(row: Row, outputs: Outputs) -> float | None:
    prices, used = row["prices"], outputs.answer
    if unknown := [name for name in prices if name not in _PRICES]:
        raise ConfigError(f"prices: unknown key {unknown[0]!r}{near(unknown[0], _PRICES)}")
    if used is None:
        return None
    tokens = used.prompt_tokens * prices.get("input_per_million", 0.0) + used.tokens * prices.get("output_per_million", 0.0)
    return tokens / 1e6 + (used.seconds or 0.0) * prices.get("device_hour", 0.0) / 3600


def corpus(answered: Answered) -> dict[str, Any]:
    """Value: the price of a thousand answers."""
    costs = [value for row, outputs in answered if (value := score(row, outputs)) is not None]
    tokens = sum(answer.prompt_tokens + answer.tokens for _, outputs in answered if (answer := outputs.answer))
    currency = answered[0][0]["prices"].get("currency", "USD") if answered else "USD"
    return {"value": round(1000 * sum(costs) / max(1, len(costs)), 6), "what": f"{currency} per thousand answers", "tokens": tokens}
