"""Which answers people should look at: where metrics contradict each other, where a figure is unsure, and a fair sample of the rest.

Each item says why it is there. The audit part is a stratified random sample with weights, so that rates over it hold for all answers;
the other parts are where a label changes most, and say nothing about how often that is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import build
from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.judge_cases import Case, paired, read_objects
from llm_pipeline.evaluation.judge_rubric import CHOICES, Scale
from llm_pipeline.evaluation.review_reasons import Key, QueueSettings, Reason, by_turns, case_reasons, pair_reasons
from llm_pipeline.evaluation.slices import slices_of
from llm_pipeline.store import content_hash

Label = bool | int | str


@dataclass(frozen=True)
class Item:
    """One thing to decide: does the answer pass, which score does it get, or which of two answers is better."""

    item: str
    task: Literal["pass", "score", "pair"]
    question: str
    answers: tuple[str, ...]
    """One, or the two that are shown as A and B."""
    reference: str | None
    why: tuple[Reason, ...]
    origin: Mapping[str, Any] = field(default_factory=dict)
    """suite, mode, id, slices and the like."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    """Of a pair: whose answers A and B are (`first` or `second`); the reviewer is not told."""
    scale: Scale | None = None
    weight: float | None = None
    """Of the audit sample: how many answers of its stratum this one stands for."""
    scrubbed: bool = False

    @property
    def options(self) -> tuple[Label, ...]:
        return CHOICES if self.task == "pair" else self.scale.values if self.scale else (True, False)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def read_queue(path: Path) -> dict[str, Item]:
    """The items of a queue by their id."""
    items = [build(Item, row, f"{path}:{number}") for number, row in enumerate(read_objects(path), 1)]
    if repeated := [name for name, count in Counter(item.item for item in items).items() if count > 1]:
        raise InputError(f"{path}: item {repeated[0]!r} stands twice")
    return {item.item: item for item in items}


def build_queue(
    cases: Sequence[Case], others: Sequence[Case] | None = None, settings: QueueSettings | None = None, scale: Scale | None = None
) -> list[Item]:
    """The queue of one model's answers or, with `others` of a second model, of pairs; the same input gives the same queue."""
    settings = settings or QueueSettings()
    pairs = paired(cases, others) if others is not None else [(case, None) for case in cases]
    found = pair_reasons([(a, b) for a, b in pairs if b], settings) if others is not None else case_reasons(cases, settings)
    size = max(round(settings.n * settings.audit), settings.n - len(found)) if settings.audit else 0
    audit = _audit([case for case, _ in pairs], size, settings)
    chosen = list(audit)
    for key in by_turns(found, settings.seed):
        if len(chosen) >= settings.n:
            break
        if key not in audit:
            chosen.append(key)
    texts = {case.key: (case, other) for case, other in pairs}
    items = []
    for key in chosen:
        why = [*found.get(key, ()), *([Reason("audit", f"random sample of {audit[key][0]}")] if key in audit else [])]
        items.append(_item(*texts[key], tuple(why), audit[key][1] if key in audit else None, scale))
    return items


def _audit(cases: Sequence[Case], size: int, settings: QueueSettings) -> dict[Key, tuple[str, float]]:
    """The random sample: (stratum, weight) by key, shares of the strata by size, at least one of each while there is room."""
    strata: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        slices = slices_of(case.origin() | {"question": case.question})
        strata[" ".join([case.suite or "all", *(f"{name}={slices.get(name, '-')}" for name in settings.by)])].append(case)
    size = min(size, len(cases))
    quota = dict.fromkeys(sorted(strata, key=lambda name: (-len(strata[name]), name))[:size], 1)
    for _ in range(size - len(quota)):
        owed = {name: size * len(strata[name]) / len(cases) - taken for name, taken in quota.items() if taken < len(strata[name])}
        quota[max(owed, key=lambda name: (owed[name], name))] += 1
    drawn = {}
    for name, taken in quota.items():
        for case in sorted(strata[name], key=_lottery(settings.seed))[:taken]:
            drawn[case.key] = (name, len(strata[name]) / taken)
    return drawn


def _lottery(seed: int) -> Callable[[Case], str]:
    return lambda case: content_hash(seed, *case.key)


def _item(case: Case, other: Case | None, why: tuple[Reason, ...], weight: float | None, scale: Scale | None) -> Item:
    identity = content_hash(*case.key, case.question, case.answer, other.answer if other else None, scale and asdict(scale))
    if other is None:
        task: Literal["pass", "score"] = "score" if scale else "pass"
        return Item(identity, task, case.question, (case.answer,), case.reference, why, case.origin(), case.scores, (), scale, weight)
    turned = int(identity, 16) % 2 == 1
    shown, models = [case, other], ["first", "second"]
    if turned:
        shown.reverse()
        models.reverse()
    scores = {name: dict(side.scores) for name, side in zip(models, shown, strict=True)}
    origin = {key: value for key, value in case.origin().items() if key != "model"}
    answers_of_both = tuple(side.answer for side in shown)
    return Item(identity, "pair", case.question, answers_of_both, case.reference, why, origin, scores, tuple(models), None, weight)


def scrubbed(items: Sequence[Item]) -> tuple[list[Item], int]:
    """The items without personal data in their texts, and how many places were replaced."""
    from llm_pipeline.curation.pii import load_policy, scrub_texts

    parts = [(i, text) for i, item in enumerate(items) for text in (item.question, *item.answers, item.reference or "")]
    texts, spans = scrub_texts([text for _, text in parts], load_policy(), [items[i].item for i, _ in parts])
    cleaned = iter(texts)
    found = []
    for item in items:
        question, answers, reference = next(cleaned), tuple(next(cleaned) for _ in item.answers), next(cleaned)
        kept = reference if item.reference is not None else None
        found.append(replace(item, question=question, answers=answers, reference=kept, scrubbed=True))
    return found, len(spans)
