"""What reviewers said: sheets that show no scores, checked when they come back, and one label made of several opinions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError, near
from llm_pipeline.evaluation.agreement import agreement, krippendorff_alpha
from llm_pipeline.evaluation.judge_cases import read_objects
from llm_pipeline.evaluation.review_queue import Item, Label
from llm_pipeline.store import content_hash

WORDS = {"pass": True, "fail": False, "yes": True, "no": False, "a": "A", "b": "B", "tie": "tie"}


@dataclass(frozen=True)
class Opinion:
    """One reviewer's label of one item; `corrected` is the answer that would have been right."""

    item: str
    reviewer: str
    label: Label
    corrected: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Review:
    """Every opinion, by item; `labels` are those on which a majority agrees."""

    items: Mapping[str, Item]
    opinions: Sequence[Opinion]
    votes: Mapping[str, Mapping[str, Label]] = field(default_factory=dict)
    """By item and reviewer."""

    @property
    def labels(self) -> dict[str, Label]:
        return {name: label for name, votes in self.votes.items() if (label := majority(list(votes.values()))) is not None}

    @property
    def conflicts(self) -> list[dict[str, Any]]:
        """Items on which reviewers differ; `label` is null where no majority settles it."""
        labels = self.labels
        return [
            {"item": name, "id": self.items[name].origin.get("id"), "votes": dict(votes), "label": labels.get(name)}
            for name, votes in self.votes.items()
            if len(set(votes.values())) > 1
        ]


def sheet(items: Sequence[Item], reviewer: str) -> list[dict[str, Any]]:
    """Rows for one reviewer to fill in, in an order of their own, without scores, reasons and models, which would lead them."""
    ordered = sorted(items, key=lambda item: content_hash(reviewer, item.item))
    return [
        {"item": item.item, "question": item.question}
        | (dict(zip(("answer_a", "answer_b"), item.answers, strict=True)) if item.task == "pair" else {"answer": item.answers[0]})
        | {"reference": item.reference, "options": list(item.options), **({"scale": item.scale.meaning} if item.scale else {})}
        | {"reviewer": reviewer, "label": None, "corrected": "", "comment": ""}
        for item in ordered
    ]


def read_opinions(paths: Sequence[Path], items: Mapping[str, Item], reviewer: str = "") -> list[Opinion]:
    """The labelled rows of sheets; rows without a label are skipped. All that is wrong is told at once, by file and line."""
    rows = [(row, f"{path}:{number}") for path in paths for number, row in enumerate(read_objects(path), 1)]
    return check_opinions([({"reviewer": reviewer} | _given(row), where) for row, where in rows], items)


def check_opinions(rows: Sequence[tuple[Mapping[str, Any], str]], items: Mapping[str, Item]) -> list[Opinion]:
    """Opinions of rows {item, reviewer, label, corrected, comment}, each with where it comes from."""
    found: dict[tuple[str, str], Opinion] = {}
    problems = []
    for row, where in rows:
        item, value = items.get(str(row.get("item"))), row.get("label")
        if item is None:
            problems.append(f"{where}: unknown item {row.get('item')!r}{near(str(row.get('item')), items) if len(items) < 50 else ''}")
            continue
        if value in (None, ""):
            continue
        label = _label(value, item)
        if label is None:
            problems.append(f"{where}: label: received {value!r}, expected one of {', '.join(map(str, item.options))}")
        elif not (name := str(row.get("reviewer") or "").strip()):
            problems.append(f"{where}: no reviewer; fill in the column or name one")
        else:
            opinion = Opinion(item.item, name, label, str(row.get("corrected") or "").strip(), str(row.get("comment") or "").strip())
            earlier = found.setdefault((item.item, name), opinion)
            if earlier.label != label:
                problems.append(f"{where}: {name} labelled the item {item.item} {earlier.label!r} before and {label!r} here")
    if problems:
        more = f"\n... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError("\n".join(problems[:10]) + more)
    return list(found.values())


def review(items: Mapping[str, Item], opinions: Sequence[Opinion]) -> Review:
    votes: dict[str, dict[str, Label]] = defaultdict(dict)
    for opinion in sorted(opinions, key=lambda o: (o.item, o.reviewer)):
        votes[opinion.item][opinion.reviewer] = opinion.label
    return Review(items, opinions, {name: votes[name] for name in items if name in votes})


def majority(votes: Sequence[Label]) -> Label | None:
    """What more than half of the reviewers said; None when nothing is."""
    label, count = Counter(votes).most_common(1)[0]
    return label if 2 * count > len(votes) else None


def label_rows(done: Review) -> list[dict[str, Any]]:
    """Rows as `llm-pipeline judge calibrate` takes them, of the items with a majority; also votes, corrections and the audit's weight."""
    rows = []
    for name, label in done.labels.items():
        item = done.items[name]
        texts = dict(zip(("answer_a", "answer_b"), item.answers, strict=True)) if item.task == "pair" else {"answer": item.answers[0]}
        fixes = Counter(o.corrected for o in done.opinions if o.item == name and o.corrected)
        rows.append(
            dict(item.origin)
            | {"item": name, "task": item.task, "question": item.question, **texts, "reference": item.reference, "label": label}
            | {"votes": dict(done.votes[name]), "corrected": fixes.most_common(1)[0][0] if len(fixes) == 1 else None}
            | {"corrections": sorted(fixes) if len(fixes) > 1 else [], "weight": item.weight, "models": list(item.models)}
        )
    return rows


def between_reviewers(done: Review) -> list[dict[str, Any]]:
    """Per task: Krippendorff's alpha of all, and Cohen's kappa of every two reviewers on the items that both labelled."""
    found = []
    for task in dict.fromkeys(done.items[name].task for name in done.votes):
        votes = {name: v for name, v in done.votes.items() if done.items[name].task == task}
        items = [done.items[name] for name in votes]
        options = sorted({option for item in items for option in item.options}, key=_order(items))
        weights = "quadratic" if task == "score" else "nominal"
        pairs = []
        for one, other in combinations(sorted({reviewer for v in votes.values() for reviewer in v}), 2):
            both = [(v[one], v[other]) for v in votes.values() if one in v and other in v]
            if both:
                mine, theirs = zip(*both, strict=True)
                a = agreement(mine, theirs, options, weights)  # type: ignore[arg-type]
                pairs.append({"reviewers": [one, other], "n": a.n, "agreement": round(a.raw, 4), "kappa": _rounded(a.kappa.mean)})
        alpha = krippendorff_alpha(list(votes.values()), weights)  # type: ignore[arg-type]
        found.append({"task": task, "alpha": _rounded(alpha), "pairs": pairs})
    return found


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "reviewer" or value}


def _label(value: Any, item: Item) -> Label | None:
    if isinstance(value, str) and item.task != "score":
        value = WORDS.get(value.strip().casefold(), value)
    if isinstance(value, str) and item.task == "score" and value.strip().lstrip("-").isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return next((option for option in item.options if type(option) is type(value) and option == value), None)


def _order(items: Sequence[Item]) -> Callable[[Hashable], int]:
    known = list(dict.fromkeys(option for item in items for option in item.options))
    return lambda option: known.index(option)  # type: ignore[arg-type]


def _rounded(value: float) -> float | None:
    return round(value, 4) if isfinite(value) else None
