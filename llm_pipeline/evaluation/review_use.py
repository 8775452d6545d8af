"""What labels are good for: suite rows with corrected answers, and preferences to train on; what gives nothing is counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.judge_cases import id_of, read_objects, text_of

Row = Mapping[str, Any]
Made = tuple[list[dict[str, Any]], dict[str, int]]
"""Rows, and how many labels gave none, by reason."""


def read_reviewed(path: Path) -> list[dict[str, Any]]:
    """The rows that `llm-pipeline review import` wrote."""
    rows = read_objects(path)
    for number, row in enumerate(rows, 1):
        where = f"{path}:{number}"
        id_of(row, where)
        text_of(row, "question", where)
        if row.get("label") is None or row.get("task") not in ("pass", "score", "pair"):
            raise InputError(f"{where}: expected a task of pass, score or pair and a label; received the keys {', '.join(row)}")
        for name in ("answer_a", "answer_b") if row["task"] == "pair" else ("answer",):
            text_of(row, name, where)
    return rows


def suite_rows(labels: Sequence[Row]) -> Made:
    """Rows {id, question, answer} for a suite: the reviewers' correction, or an accepted answer where there was no reference yet."""

    def make(row: Row) -> dict[str, Any] | str:
        answer = row.get("corrected") or (row["answer"] if row["label"] is True and not row.get("reference") else None)
        if answer is None:
            return "several_corrections" if row.get("corrections") else "nothing_corrected"
        slices = {"slices": row["slices"]} if row.get("slices") else {}
        return {"id": str(row["id"]), "question": row["question"], "answer": answer, **slices, "reviewed": row.get("item")}

    return _made(labels, make)


def preference_rows(labels: Sequence[Row], form: Literal["dpo", "kto"] = "dpo") -> Made:
    """Conversational rows as TRL takes them: `dpo` {prompt, chosen, rejected}, `kto` {prompt, completion, label}."""
    return _made(labels, _dpo if form == "dpo" else _kto)


def _dpo(row: Row) -> dict[str, Any] | str:
    if row["task"] == "pair":
        if row["label"] == "tie":
            return "tie"
        better, worse = (row["answer_a"], row["answer_b"]) if row["label"] == "A" else (row["answer_b"], row["answer_a"])
    elif not row.get("corrected"):
        return "no_second_answer"
    else:
        better, worse = row["corrected"], row["answer"]
    if not better.strip() or not worse.strip():
        return "empty_answer"
    if better == worse:
        return "equal_answers"
    return {"id": str(row["id"]), "prompt": _said("user", row["question"])} | {
        "chosen": _said("assistant", better),
        "rejected": _said("assistant", worse),
    }


def _kto(row: Row) -> dict[str, Any] | str:
    if row["task"] != "pass":
        return f"{row['task']}_is_no_approval"
    if not row["answer"].strip():
        return "empty_answer"
    return {"id": str(row["id"]), "prompt": _said("user", row["question"])} | {
        "completion": _said("assistant", row["answer"]),
        "label": bool(row["label"]),
    }


def _said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _made(labels: Sequence[Row], make: Callable[[Row], dict[str, Any] | str]) -> Made:
    rows, skipped = [], Counter[str]()
    for row in labels:
        made = make(row)
        if isinstance(made, str):
            skipped[made] += 1
        else:
            rows.append(made)
    return rows, dict(skipped)
