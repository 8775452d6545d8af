"""Trying again what may have failed by accident, with growing pauses."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from llm_pipeline.errors import PipelineError

T = TypeVar("T")
TRIES = 4
FIRST_PAUSE = 0.5
"""Seconds; each further pause is twice as long, and all are up to half longer by chance, so that many clients do not come back at once."""
PERMANENT: tuple[type[Exception], ...] = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    ImportError,
    ValueError,
    TypeError,
    PipelineError,
)
"""What another try would not change."""
pause = time.sleep


def retrying(action: Callable[[], T], what: str) -> T:
    """The result of `action`, or its last error after TRIES tries."""
    for attempt in range(TRIES):
        try:
            return action()
        except PERMANENT:
            raise
        except Exception as error:
            if attempt == TRIES - 1:
                raise
            logging.getLogger(__name__).warning("%s: %s; trying again", what, error)
            pause(FIRST_PAUSE * 2**attempt * random.uniform(1, 1.5))
    raise AssertionError("unreachable")
