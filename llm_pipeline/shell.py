"""What all command lines share: the options --home and --json, and how a result is printed."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.store import Home

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of what is made; default $LLM_PIPELINE_HOME or .llm_pipeline.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of lines for people.")]


def open_home(given: Path | None) -> Home:
    return Home((given or Path(os.environ.get("LLM_PIPELINE_HOME", ".llm_pipeline"))).resolve())


def lean() -> None:
    """What a command that passes tables along need not wait for: pandas, and looking for cycles after every few hundred new objects.

    pyarrow imports pandas for its first array, in case the values are a Series. Told then that there is none, it imports it where a
    table is to become a data frame.
    """
    gc.set_threshold(50_000)
    if "pandas" not in sys.modules:
        import pyarrow as pa

        with _hidden("pandas"):
            pa.array([""])


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    class Hidden:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == module:
                raise ImportError(name=name)

    sys.meta_path.insert(0, Hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(Hidden)


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """One JSON object, or a line for every entry."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        typer.echo(f"{name:<{width}}  {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
