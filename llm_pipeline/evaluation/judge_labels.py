"""What people said about answers, and what judges that do not read would have said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.judge_cases import Case, id_of, read_objects, text_of
from llm_pipeline.evaluation.judge_rubric import Rubric

Label = bool | int | str


@dataclass(frozen=True)
class Labelled:
    """A case with what people said: `label` is true or false (passes), a number of the scale, or A, B, tie."""

    case: Case
    other: Case | None
    label: Label

    @property
    def content(self) -> list[Any]:
        return [*self.case.key, self.case.question, self.case.answer, self.other.answer if self.other else None, self.label]


def read_labels(path: Path, rubric: Rubric) -> list[Labelled]:
    """Rows {id, question, answer, label} or {id, question, answer_a, answer_b, label}; an id stands once."""
    found: dict[tuple[str, str, str], Labelled] = {}
    for number, row in enumerate(read_objects(path), 1):
        where = f"{path}:{number}"
        names = ("answer",) if rubric.kind == "pointwise" else ("answer_a", "answer_b")
        question, texts = text_of(row, "question", where), [text_of(row, name, where) for name in names]
        cases = [Case(str(row.get("suite") or ""), id_of(row, where), question, text, row.get("reference"), {}, row) for text in texts]
        label = _label(row.get("label"), rubric, where)
        if cases[0].key in found:
            raise InputError(f"{where}: id {cases[0].id!r} stands twice; `llm-pipeline review import` makes one label of several")
        found[cases[0].key] = Labelled(cases[0], cases[1] if len(cases) > 1 else None, label)
    if len({isinstance(labelled.label, bool) for labelled in found.values()}) > 1:
        raise InputError(f"{path}: some labels are true or false and others numbers; expected one kind")
    return list(found.values())


def _label(value: Any, rubric: Rubric, where: str) -> Label:
    if rubric.kind == "pointwise" and isinstance(value, bool):
        return value
    if isinstance(value, int | str) and not isinstance(value, bool) and value in rubric.verdicts:
        return value
    allowed = [*(["true", "false"] if rubric.kind == "pointwise" else []), *map(str, rubric.verdicts)]
    raise InputError(f"{where}: label: received {value!r}, expected one of {', '.join(allowed)}")


def baseline_verdicts(rubric: Rubric, labels: Sequence[Labelled]) -> dict[str, list[Label]]:
    """Judges that do not read: constant ones, and by length both ways (on a scale: people's own labels, handed out by rank of length)."""
    truth = [labelled.label for labelled in labels]
    if not truth:
        return {}
    commonest = Counter(truth).most_common(1)[0][0]
    constant: dict[str, list[Label]] = {"commonest_label": [commonest] * len(truth)}
    if rubric.kind == "pointwise":
        ranks = sorted(range(len(labels)), key=lambda i: (len(labels[i].case.answer), i))
        return {"longer": _ranked(ranks, truth), "shorter": _ranked(ranks[::-1], truth)} | constant
    lengths = [(len(labelled.case.answer), len(labelled.other.answer if labelled.other else "")) for labelled in labels]
    longer: list[Label] = ["tie" if a == b else "A" if a > b else "B" for a, b in lengths]
    shorter: list[Label] = ["tie" if a == b else "B" if a > b else "A" for a, b in lengths]
    first: list[Label] = ["A"] * len(truth)
    return {"longer": longer, "shorter": shorter, "first": first} | constant


def _ranked(order: Sequence[int], truth: Sequence[Label]) -> list[Label]:
    given = dict(zip(order, sorted(truth, key=float), strict=True))
    return [given[i] for i in range(len(truth))]
