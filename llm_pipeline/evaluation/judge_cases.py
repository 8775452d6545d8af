"""What is judged or reviewed: one question and answer with all its scores, from rows of `llm-pipeline evaluate` or plain ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError
from llm_pipeline.store import read_jsonl


@dataclass(frozen=True)
class Case:
    """One answer of one model; `scores` by metric, `doubts` what a judge could not say, `row` the first of the rows it came from."""

    suite: str
    id: str
    question: str
    answer: str
    reference: str | None
    scores: dict[str, float] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.suite, str(self.row.get("mode") or ""), self.id

    def origin(self) -> dict[str, Any]:
        """The columns that say where the case comes from."""
        names = ("suite", "mode", "model", "slices", "source", "language", "day", "kind")
        return {name: self.row[name] for name in names if self.row.get(name) is not None} | {"id": self.id}


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file (or of `rows.jsonl` in a folder), each an object; an empty file is an error."""
    path = path / "rows.jsonl" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        rows = read_jsonl(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected an object, received {str(row)[:80]!r}")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}:{number}: half of a surrogate pair (\\ud800 to \\udfff) in {str(row)[:80]!a}") from None
    if not rows:
        raise InputError(f"{path}: empty; expected one object per line")
    return rows


def read_cases(*paths: Path) -> list[Case]:
    """Cases of one model in the order of the files; rows of one suite, mode and id are one case, so their texts must be the same."""
    cases: dict[tuple[str, str, str], Case] = {}
    for path in paths:
        for number, row in enumerate(read_objects(path), 1):
            where = f"{path}:{number}"
            question, answer = text_of(row, "question", where), text_of(row, "answer", where)
            case = Case(str(row.get("suite") or ""), id_of(row, where), question, answer, _reference(row), {}, row)
            known = cases.setdefault(case.key, case)
            if (known.question, known.answer) != (question, answer):
                raise InputError(f"{where}: id {case.id!r} stands twice with different texts; expected one answer per suite, mode and id")
            _take_score(known, row)
    return list(cases.values())


def _take_score(case: Case, row: Mapping[str, Any]) -> None:
    if not row.get("metric"):
        return
    metric, score = str(row["metric"]), row.get("score") if row.get("score") is not None else row.get("judged")
    if isinstance(score, int | float) and isfinite(score):
        case.scores[metric] = float(score)
    if row.get("problem"):
        case.doubts.append(f"{metric} gave no verdict: {row['problem']}")
    if row.get("consistent") is False and not row.get("problem"):
        case.doubts.append(f"{metric} changed with the order of the answers")
    if "talks_to_judge" in (row.get("flags") or ()):
        case.doubts.append(f"{metric}: the answer speaks to the judge")


def id_of(row: Mapping[str, Any], where: str) -> str:
    found = row.get("id")
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise InputError(f"{where}: id: expected a text or an integer, received {found!r}; the row has {', '.join(row) or 'no keys'}")
    return str(found)


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(found := row.get(name), str):
        raise InputError(f"{where}: {name}: expected a text, received {found!r}; the row has {', '.join(row) or 'no keys'}")
    return found


def paired(first: Sequence[Case], second: Sequence[Case]) -> list[tuple[Case, Case]]:
    """The cases that both have, in the order of `first`; the same id with another question is an error."""
    theirs = {case.key: case for case in second}
    pairs = [(case, theirs[case.key]) for case in first if case.key in theirs]
    if not pairs:
        raise InputError(f"no case in common: {len(first)} and {len(second)} cases, expected the same suite, mode and id in both")
    for one, other in pairs:
        if one.question != other.question:
            raise InputError(f"id {one.id!r}: two questions, {one.question[:60]!r} and {other.question[:60]!r}; expected the same in both")
    return pairs


def _reference(row: Mapping[str, Any]) -> str | None:
    found = row.get("reference")
    return None if found is None else found if isinstance(found, str) else str(found)
