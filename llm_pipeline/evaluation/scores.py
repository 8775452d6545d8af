"""Scored rows from a file: `{id, metric, score}` per line, plain or gzipped, checked row by row; and the scores in them by metric."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError, MissingError

Scores = dict[str, dict[str, float]]
"""`{metric: {id: score}}`; a metric's full name is suite/mode/metric, as far as the rows say."""
REQUIRED = ("id", "metric", "score")
ROWS = "rows.jsonl"
_GZIP = b"\x1f\x8b"
_LARGEST = 1e12


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, or of `rows.jsonl` in a folder that `llm-pipeline evaluate` made; each has a valid id, metric and score.

    Raises InputError naming file and line for anything that is wrong.
    """
    path = path / ROWS if path.is_dir() else path
    if not path.exists():
        raise MissingError(f"{path}: no such file")
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        row = _row(line, f"{path}:{number}")
        key = metric_name(row), str(row["id"])
        if key in seen:
            raise InputError(f"{path}:{number}: metric {key[0]!r} of id {key[1]!r} stands in line {seen[key]} already; expected it once")
        seen[key] = number
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: no scored rows; expected lines like " + '{"id": "q1", "metric": "em", "score": 1}')
    return rows


def lower_is_better(path: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Metrics of which less is better: rows may say so (`lower_is_better`), and a folder's report.json says so."""
    found = {metric_name(row) for row in rows if row.get("lower_is_better") is True}
    report = path / "report.json"
    if path.is_dir() and report.exists():
        suites = json.loads(report.read_text("utf-8")).get("suites", [])
        found |= {f"{s['suite']}/{f['metric']}" for s in suites for f in s.get("figures", ()) if f.get("lower_is_better")}
    return tuple(sorted(found & {metric_name(row) for row in rows}))


def scores_of(rows: Iterable[Mapping[str, Any]]) -> Scores:
    """Scores by metric and id; the order of the rows leaves no trace.

    Rows of one `cluster` (variants of one question, turns of one conversation) say less than as many questions, so they count as one
    example with their mean.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        example = str(row["id"] if row.get("cluster") is None else row["cluster"])
        found.setdefault(metric_name(row), {}).setdefault(example, {})[str(row["id"])] = float(row["score"])
    return {metric: {example: _mean(scores) for example, scores in sorted(of.items())} for metric, of in sorted(found.items())}


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores[name] for name in sorted(scores)) / len(scores)


def metric_name(row: Mapping[str, Any]) -> str:
    return "/".join(str(row[part]) for part in ("suite", "mode", "metric") if row.get(part))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: expected one JSON object per line, received {line[:80]!r}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with {', '.join(REQUIRED)}, received {line[:80]!r}")
    if missing := [name for name in REQUIRED if name not in row]:
        raise InputError(f"{where}: no {', '.join(missing)}; expected the keys {', '.join(REQUIRED)}, received {', '.join(row) or 'none'}")
    if isinstance(row["id"], bool) or not isinstance(row["id"], str | int) or row["id"] == "":
        raise InputError(f"{where}: id: expected a text or an integer, received {row['id']!r}")
    if not isinstance(row["metric"], str) or not row["metric"]:
        raise InputError(f"{where}: metric: expected a name, received {row['metric']!r}")
    score = row["score"]
    if not isinstance(score, bool | int | float) or not abs(score) <= _LARGEST:
        raise InputError(f"{where}: score of {row['id']!r}: expected a finite number, true or false, received {json.dumps(score)[:80]}")
    return row


def _lines(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path}: expected a whole gzip file, received a broken one: {error}") from error
    elif path.suffix == ".gz":
        raise InputError(f"{path}: expected gzip by its name, received something else")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: expected UTF-8, received the byte {data[error.start]:#04x}") from error
    return iter(text.split("\n"))
