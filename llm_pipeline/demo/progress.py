"""What one sees while a long run goes on: on a terminal a live line with an ETA, elsewhere one line per step."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Watch:
    """Counts weighted steps; `say` shows the latest line, which a terminal overwrites and a log keeps."""

    def __init__(self, console: Console, total: float) -> None:
        self.console = console
        self._started = time.monotonic()
        self._step = ""
        columns = (TextColumn("[bold]{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[line]}"), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("demo", total=total, line="")

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, step: str) -> None:
        self._step = step
        self._bar.update(self._task, description=step)

    def say(self, line: str) -> None:
        if self.console.is_terminal:
            width = max(20, self.console.width - 75)
            self._bar.update(self._task, line=line[:width])
        else:
            self.console.print(f"{time.monotonic() - self._started:6.0f} s  {line}", markup=False, highlight=False, soft_wrap=True)

    def done(self, line: str, weight: float) -> None:
        """Finish a step; its line stays on the screen."""
        if self.console.is_terminal:
            self._bar.print(f"{time.monotonic() - self._started:6.0f} s  {line}")
        self._bar.advance(self._task, weight)
