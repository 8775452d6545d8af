"""How well two raters agree beyond chance, how sure that is, and what a rater's known errors do to a pass rate.

Kappa: Cohen 1960, weighted 1968; AC1: Gwet 2008; alpha: Krippendorff 2011; corrected rate: Rogan and Gladen 1978. Intervals resample the
rated items; with a handful of categories that is one multinomial draw per resample, so they cost nothing and are the same every time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.compare import LEVEL, Interval

Weights = Literal["nominal", "quadratic"]
Array = NDArray[np.float64]
RESAMPLES = 4_000


@dataclass(frozen=True)
class Agreement:
    """Two raters on the same items; figures are NaN when there is nothing to agree on (no items, or one label only)."""

    n: int
    raw: float
    """Share of items with the same label."""
    kappa: Interval
    ac1: float
    weights: Weights


def agreement(first: Sequence[Hashable], second: Sequence[Hashable], labels: Sequence[Hashable], weights: Weights = "nominal") -> Agreement:
    """Agreement of two raters who chose from `labels`; `quadratic` counts a near miss on an ordered scale of numbers less."""
    joint = _Joint([first, second], labels)
    table = joint.table(0, 1)
    loss = _loss(labels, weights)
    return Agreement(len(first), _raw(table), _kappa_interval(joint, loss), _ac1(table), weights)


def kappa_gain(
    truth: Sequence[Hashable],
    rater: Sequence[Hashable],
    other: Sequence[Hashable],
    labels: Sequence[Hashable],
    weights: Weights = "nominal",
    level: float = LEVEL,
) -> Interval:
    """By how much more `rater` agrees with `truth` than `other` does, on the same items."""
    joint, loss = _Joint([truth, rater, other], labels), _loss(labels, weights)
    draws = joint.resampled()
    gains = np.nan_to_num(_kappa(joint.tables(draws, 0, 1), loss)) - np.nan_to_num(_kappa(joint.tables(draws, 0, 2), loss))
    own, others = _kappa(joint.table(0, 1), loss), _kappa(joint.table(0, 2), loss)
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.nan_to_num(own) - np.nan_to_num(others)), float(low), float(high), len(truth))


def krippendorff_alpha(ratings: Sequence[Mapping[str, Hashable]], weights: Weights = "nominal") -> float:
    """Agreement of any number of raters, each of whom rated some items: `{rater: label}` per item; NaN when nothing can be compared."""
    units = [list(item.values()) for item in ratings if len(item) > 1]
    labels = sorted({label for unit in units for label in unit}, key=lambda label: (str(type(label)), label))
    if len(labels) < 2:
        return float("nan")
    at = {label: i for i, label in enumerate(labels)}
    coincidence = np.zeros((len(labels), len(labels)))
    for unit in units:
        counts = np.bincount([at[label] for label in unit], minlength=len(labels)).astype(float)
        coincidence += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    loss, totals = _loss(labels, weights), coincidence.sum(0)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    return float(1 - (loss * coincidence).sum() / (loss * expected).sum())


class PassTable(NamedTuple):
    """How a judge's pass and fail met those of people."""

    both: int
    only_people: int
    only_judge: int
    neither: int


def pass_table(truth: Sequence[bool], judged: Sequence[bool]) -> PassTable:
    pairs = list(zip(truth, judged, strict=True))
    return PassTable(*(pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))


def corrected_rate(passed: int, n: int, known: PassTable, level: float = LEVEL, seed: int = 0) -> Interval:
    """The share that people would pass, from the share that a judge passed (`passed` of `n`) and its errors on labelled items.

    The interval holds both uncertainties: draws from the Jeffreys posteriors of sensitivity, specificity and the judge's rate. A judge
    that tells nothing (sensitivity + specificity not surely above 1) gives NaN.
    """
    good, bad = known.both + known.only_people, known.only_judge + known.neither
    nothing = Interval(float("nan"), float("nan"), float("nan"), n)
    if not n or not good or not bad:
        return nothing
    rng = np.random.default_rng(seed)
    sensitivity, specificity = _posterior(rng, known.both, good), _posterior(rng, known.neither, bad)
    power = sensitivity + specificity - 1
    if np.quantile(power, (1 - level) / 2) <= 0:
        return nothing
    rates = np.clip((_posterior(rng, passed, n) + specificity - 1) / np.maximum(power, 1e-9), 0, 1)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    right = known.neither / bad
    mean = (passed / n + right - 1) / (known.both / good + right - 1)
    return Interval(min(1.0, max(0.0, mean)), float(low), float(high), n)


class _Joint:
    """Items as counts of the combinations of labels that occurred, which is all that agreement depends on."""

    def __init__(self, raters: Sequence[Sequence[Hashable]], labels: Sequence[Hashable]) -> None:
        if len({len(rater) for rater in raters}) != 1:
            raise InputError(f"agreement: received {', '.join(str(len(r)) for r in raters)} labels, expected one of each rater per item")
        at = {label: i for i, label in enumerate(labels)}
        if unknown := next((label for rater in raters for label in rater if label not in at), None):
            raise InputError(f"agreement: received the label {unknown!r}, expected one of {list(labels)}")
        rows = np.array([[at[label] for label in rater] for rater in raters], np.int64).T.reshape(-1, len(raters))
        self.size, self.n = len(labels), len(rows)
        self.rows, self.counts = np.unique(rows, axis=0, return_counts=True)

    def resampled(self) -> Array:
        return np.random.default_rng(0).multinomial(self.n, self.counts / max(self.n, 1), size=RESAMPLES).astype(float)

    def table(self, a: int, b: int) -> Array:
        return self.tables(self.counts[None].astype(float), a, b)[0]

    def tables(self, counts: Array, a: int, b: int) -> Array:
        """Tables of raters `a` and `b`, one per row of counts."""
        cells = np.zeros((len(self.rows), self.size**2))
        cells[np.arange(len(self.rows)), self.rows[:, a] * self.size + self.rows[:, b]] = 1
        return (counts @ cells).reshape(-1, self.size, self.size)


def _kappa_interval(joint: _Joint, loss: Array, level: float = LEVEL) -> Interval:
    if not joint.n:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    found = np.nan_to_num(_kappa(joint.tables(joint.resampled(), 0, 1), loss))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(_kappa(joint.table(0, 1), loss)), float(low), float(high), joint.n)


def _kappa(tables: Array, loss: Array) -> Array:
    shares = tables / np.maximum(tables.sum((-2, -1), keepdims=True), 1)
    chance = shares.sum(-1)[..., :, None] * shares.sum(-2)[..., None, :]
    expected = (chance * loss).sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 1e-12, 1 - (shares * loss).sum((-2, -1)) / expected, np.nan)


def _loss(labels: Sequence[Hashable], weights: Weights) -> Array:
    if weights == "nominal":
        return 1 - np.eye(len(labels))
    values = np.array([float(label) for label in labels])  # type: ignore[arg-type]
    return np.square(values[:, None] - values[None, :]) / max(np.ptp(values) ** 2, 1e-12)


def _raw(table: Array) -> float:
    return float(np.trace(table) / table.sum()) if table.sum() else float("nan")


def _ac1(table: Array) -> float:
    if not table.sum() or len(table) < 2:
        return float("nan")
    shares = table / table.sum()
    used = (shares.sum(0) + shares.sum(1)) / 2
    chance = float((used * (1 - used)).sum() / (len(table) - 1))
    return float((np.trace(shares) - chance) / (1 - chance))


def _posterior(rng: np.random.Generator, hits: int, n: int, draws: int = 20_000) -> Array:
    return rng.beta(hits + 0.5, n - hits + 0.5, draws)
