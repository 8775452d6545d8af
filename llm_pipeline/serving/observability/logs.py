"""Logs of the endpoint's processes: no API key, ours or a provider's, is ever written, whoever logs what."""

from __future__ import annotations

import logging
import re

_SECRET = re.compile(r"\b((?:lp|sk|pk|rk|hf|gsk|xai|AIza)[-_])[A-Za-z0-9_-]{12,}|(?i:(bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}")


def hide(text: str) -> str:
    """The text with what looks like a key cut down to its kind."""
    return _SECRET.sub(lambda found: f"{found[1] or found[2]}...", text)


class Formatter(logging.Formatter):
    """Formats as usual, tracebacks too, and hides keys."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


def start_logging(level: int = logging.INFO) -> None:
    """Log to standard error; also what libraries log, uvicorn among them, goes this way (`connection.server_options`)."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
