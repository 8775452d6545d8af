"""Suites as data: `data/suites/NAME.yaml` says what is asked and measured, a jsonl file beside it holds the rows.

The id of a suite is the hash of both, so a figure always says which questions it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError, InputError, near
from llm_pipeline.evaluation.measure import Metric, find_metrics
from llm_pipeline.evaluation.memorisation import CANDIDATES, candidates
from llm_pipeline.evaluation.perturb import PERTURBATIONS, variants
from llm_pipeline.paths import DATA
from llm_pipeline.store import content_hash, read_jsonl

FOLDER = DATA / "suites"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Generation:
    max_new_tokens: int = 40
    batch_size: int | None = None
    """Questions answered together; 1 measures how long one answer takes by itself."""


@dataclass(frozen=True)
class Limit:
    """What a figure should keep to: the corpus value of a metric that has one, else its mean."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True)
class SuiteSpec:
    """The keys of a suite's YAML file."""

    description: str
    metrics: tuple[str, ...]
    """Names of metrics, module paths, or files `my_metric.py` beside the suite."""
    kind: Literal["quality", "robustness", "safety", "cost"] = "quality"
    rows: str = ""
    """The jsonl file beside this one; empty: of the same name."""
    slices: tuple[str, ...] = ()
    """Columns of the rows by which the figures are broken down."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Columns that every row has unless it says otherwise, such as a schema or prices."""
    perturb: tuple[str, ...] = ()
    generation: Generation = Generation()
    thresholds: Mapping[str, Limit] = field(default_factory=dict)
    blocks: bool = True
    """Whether a candidate beyond a threshold of a safety suite is refused a release, or only warned of."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ConfigError("metrics: received none, expected at least one")
        for name in self.perturb:
            if name not in PERTURBATIONS:
                raise ConfigError(f"perturb: {name!r}{near(name, PERTURBATIONS)}")
        known = [Path(name).stem if name.endswith(".py") else name.rpartition(".")[2] for name in self.metrics]
        for name in self.thresholds:
            if name not in known:
                raise ConfigError(f"thresholds: the suite does not measure {name!r}{near(name, known)}")


@dataclass(frozen=True)
class SuiteFile:
    """A suite ready to be asked: its rows have their defaults, variants and candidates."""

    name: str
    spec: SuiteSpec
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    id: str

    def sample(self, limit: int | None) -> SuiteFile:
        """At most `limit` rows (pairs count as one), the same ones whatever the order, from every kind of row alike."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(str(row.get("pair", row["id"])), []).append(row)
        if limit is None or len(groups) <= limit:
            return self
        strata: dict[str, list[str]] = {}
        for key in sorted(groups, key=content_hash):
            first = groups[key][0]
            strata.setdefault(repr((first.get("kind"), bool(first.get("inserted")))), []).append(key)
        drawn = sorted((place, stratum, key) for stratum, keys in strata.items() for place, key in enumerate(keys))
        chosen = {key for _, _, key in drawn[:limit]}
        return replace(self, rows=tuple(row for row in self.rows if str(row.get("pair", row["id"])) in chosen))


def suite_names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_suite(name: str) -> SuiteFile:
    """The shipped suite of this name, a suite's YAML file, or a jsonl file of questions and answers."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_suite(path)
    if path.suffix == ".jsonl":
        spec = SuiteSpec(f"questions of {path.name}", ("exact_match", "rouge_l"))
        rows = [{"id": content_hash(row)} | row for row in _read(path)]
        return make_suite(path.stem, spec, rows, where=str(path), folder=path.parent)
    if name not in suite_names():
        raise ConfigError(f"suite {name!r}: expected a file or a name of {FOLDER}{near(name, suite_names())}")
    return load_suite(FOLDER / f"{name}.yaml")


def load_suite(path: Path) -> SuiteFile:
    spec = load(SuiteSpec, path)
    rows = path.parent / (spec.rows or f"{path.stem}.jsonl")
    return make_suite(path.stem, spec, _read(rows), where=str(rows), folder=path.parent)


def make_suite(name: str, spec: SuiteSpec, rows: Sequence[Row], *, where: str = "rows", folder: Path | None = None) -> SuiteFile:
    """The suite of these rows; a row without what its metrics need is an error that names it."""
    metrics = find_metrics(spec.metrics, folder)
    needed = sorted({column for metric in metrics for column in metric.columns} | {"id"})
    full = [dict(spec.defaults) | dict(row) for row in rows]
    if not full:
        raise InputError(f"{where}: no rows")
    seen: set[str] = set()
    for number, row in enumerate(full, 1):
        if any("choices" in metric.needs for metric in metrics) and "choices" not in row and "prefix" in row:
            row["choices"] = candidates(str(row["answer"]), int(row.get("candidates", CANDIDATES)))
        if missing := [column for column in needed if row.get(column) is None]:
            raise InputError(
                f"{where}:{number}: the column {missing[0]!r} is missing; received {', '.join(row)}; the suite needs {', '.join(needed)}"
            )
        if not any(row.get(column) for column in ("question", "text", "prefix")):
            raise InputError(f"{where}:{number}: received {', '.join(row)}; expected one of question, text and prefix")
        if str(row["id"]) in seen:
            raise InputError(f"{where}:{number}: the id {row['id']!r} stands twice")
        seen.add(str(row["id"]))
    if spec.perturb:
        full = [variant for row in full for variant in variants(row, spec.perturb)]
    return SuiteFile(name, spec, tuple(full), metrics, content_hash(asdict(spec), [dict(row) for row in rows]))


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the rows of a suite")
    return read_jsonl(path)
