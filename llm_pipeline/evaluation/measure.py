"""A metric is one function in one file: of `measures/` by its name, of a module by its path, or any file `my_metric.py`.

The file holds one of
    score(row, outputs) -> float | None                                  one answer; None: says nothing about this row
    score_pair(row, outputs, other, its_outputs) -> float | None         a row against a variant of it (rows of the same `pair`)
and may hold
    corpus(answered) -> {"value": float, ...}                            a figure of all [(row, outputs)] that is no mean of scores;
                                                                         "what" names it
    NEEDS = ("reference",)         what is asked of the model, see `Outputs`; ("answer",) by default
    COLUMNS = ("schema",)          columns that every row must have
    LOWER_IS_BETTER = True
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from llm_pipeline.errors import ConfigError, near
from llm_pipeline.evaluation import measures
from llm_pipeline.evaluation.generate import Completion, Likelihood

Row = Mapping[str, Any]
NEEDS = ("answer", "reference", "choices")


@dataclass(frozen=True)
class Outputs:
    """What the model gave for one row, as far as a metric of the suite needs it."""

    answer: Completion | None = None
    reference: Likelihood | None = None
    """Of the row's `answer` after its question (or of its `text`)."""
    choices: tuple[Likelihood, ...] = ()
    """Of each of the row's `choices` after its question."""

    @property
    def text(self) -> str:
        return self.answer.text if self.answer else ""


Answered = Sequence[tuple[Row, Outputs]]


@dataclass(frozen=True)
class Metric:
    name: str
    description: str
    score: Callable[[Row, Outputs], float | None] | None
    score_pair: Callable[[Row, Outputs, Row, Outputs], float | None] | None
    corpus: Callable[[Answered], Mapping[str, Any]] | None
    needs: tuple[str, ...] = ("answer",)
    columns: tuple[str, ...] = ()
    lower_is_better: bool = False


def find_metrics(names: Iterable[str], folder: Path | None = None) -> tuple[Metric, ...]:
    """The metrics of these names, module paths or files (relative to `folder`)."""
    return tuple(find_metric(name, folder) for name in names)


def find_metric(name: str, folder: Path | None = None) -> Metric:
    if name.endswith(".py"):
        return _metric(_from_file((folder or Path()) / name), Path(name).stem)
    if "." in name:
        try:
            return _metric(importlib.import_module(name), name.rpartition(".")[2])
        except ModuleNotFoundError as error:
            raise ConfigError(f"metric {name!r}: no such module ({error})") from error
    known = metric_names()
    if name not in known:
        raise ConfigError(f"metric {name!r}{near(name, known)}")
    return _metric(importlib.import_module(f"{measures.__name__}.{name}"), name)


def metric_names() -> list[str]:
    return sorted(path.stem for folder in measures.__path__ for path in Path(folder).glob("[a-z]*.py"))


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"metric_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a metric (a Python file with a function `score`)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _metric(module: ModuleType, name: str) -> Metric:
    score, pair, corpus = (getattr(module, function, None) for function in ("score", "score_pair", "corpus"))
    if not (score or pair or corpus):
        raise ConfigError(f"{module.__file__}: expected a function `score(row, outputs)`, `score_pair` or `corpus`, found none of them")
    needs = tuple(getattr(module, "NEEDS", ("answer",)))
    if unknown := [need for need in needs if need not in NEEDS]:
        raise ConfigError(f"{module.__file__}: NEEDS {unknown[0]!r}{near(unknown[0], NEEDS)}")
    description = (inspect.getdoc(module) or inspect.getdoc(score or pair or corpus) or "").partition("\n")[0]
    columns, lower = tuple(getattr(module, "COLUMNS", ())), bool(getattr(module, "LOWER_IS_BETTER", False))
    return Metric(name, description, score, pair, corpus, needs, columns, lower)
