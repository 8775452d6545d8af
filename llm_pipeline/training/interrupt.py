"""How a training process is asked to stop, and how it tells: a signal between two steps, and the exit code for "try again"."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import Any

EX_TEMPFAIL = 75
Report = Callable[[dict[str, Any]], None]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Interrupt:
    """Remembers that a signal asked the run to stop; the step loop looks at `asked` between two steps."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def signal_on_parent_death(number: int = signal.SIGINT) -> None:
    """Ask the kernel to send this process `number` when the thread that started it ends (Linux; elsewhere nothing)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number))
