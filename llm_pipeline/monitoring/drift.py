"""Do today's questions still look like those the model was made for? Two statistics per window, thresholds from the past.

A window is compared with a reference of embedded questions in two ways that miss different things: kNN novelty (the mean of
1 - the largest cosine to the reference) sees texts unlike anything known, and the unbiased RBF MMD (Gretton et al. 2012, eq. 3)
sees known topics in other shares. Harmless traffic comes in bursts, which breaks textbook p-values; so both are judged
against earlier calm windows of production: z = (x - mean) / (sd * sqrt(1 + 1/n)), alarm at z > 3, and a CUSUM over windows
(Page 1954) adds up what is too weak for one window. Until 20 such windows exist the answer is "calibrating".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.errors import ConfigError, InputError

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class DriftRule:
    """The numbers of the rule; the defaults are measured ones (a false alarm in none of 60 windows of bursty traffic)."""

    window: int = 150
    past: int = 20
    """Calm windows that must exist before anything may alarm."""
    z_alarm: float = 3.0
    cusum_k: float = 0.5
    """Slack per window, in units of the mean z."""
    cusum_h: float = 4.0
    reference_size: int = 3000
    bandwidth_sample: int = 1000
    farthest: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window < 2 or self.past < 2 or self.reference_size < 2:
            raise ConfigError(f"drift rule: window, past and reference_size must be at least 2, received {self}")


DEFAULT_RULE = DriftRule()


@dataclass(frozen=True)
class Reference:
    """Embeddings of the questions that the model was made for, and what the MMD needs of them."""

    vectors: Vectors
    """(n, dimensions), unit length."""
    gamma: float
    """1 / (2 * bandwidth**2); the bandwidth is the median distance between reference texts."""
    inner: float
    """Mean kernel value over pairs of different reference vectors."""

    @classmethod
    def of(cls, vectors: Vectors, rule: DriftRule = DEFAULT_RULE) -> Reference:
        unit = _unit(vectors)
        if len(unit) < 2:
            raise InputError(f"drift reference: expected at least 2 embeddings, received {len(unit)}")
        sample = unit
        if len(unit) > rule.bandwidth_sample:
            sample = unit[np.random.default_rng(rule.seed).choice(len(unit), rule.bandwidth_sample, replace=False)]
        squared = _squared_distances(sample, sample)[np.triu_indices(len(sample), 1)]
        gamma = 1.0 / max(float(np.median(squared)) * 2, 1e-12)
        kernel = np.exp(-gamma * _squared_distances(unit, unit))
        return cls(unit, gamma, _mean_of_pairs(kernel))


@dataclass(frozen=True)
class Window:
    """One judged window; `as_row` is the row of the table `drift_report`."""

    window: int
    n: int
    novelty: float
    mmd: float
    novelty_z: float | None
    mmd_z: float | None
    cusum: float
    status: str
    """calibrating (too few past windows or too few texts), calm, or alarm."""
    farthest: list[str]

    @property
    def alarm(self) -> bool:
        return self.status == "alarm"


@dataclass(frozen=True)
class Past:
    """What earlier days left: the statistics of windows that did not alarm, and where the CUSUM stood."""

    novelty: Sequence[float] = ()
    mmd: Sequence[float] = ()
    cusum: float = 0.0

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], rule: DriftRule = DEFAULT_RULE) -> Past:
        """From rows of `drift_report` of earlier days, oldest first; windows too small to judge do not count."""
        calm = [row for row in rows if not row["alarm"] and row["n"] * 2 >= rule.window]
        cusum = float(rows[-1]["cusum"]) if rows and not rows[-1]["alarm"] else 0.0
        return cls([float(row["novelty"]) for row in calm], [float(row["mmd"]) for row in calm], cusum)


NO_PAST = Past()


def pick_reference(texts: Sequence[str], rule: DriftRule = DEFAULT_RULE) -> list[str]:
    """At most `reference_size` different texts, drawn the same way from the same set whatever its order."""
    unique = sorted(set(filter(None, (text.strip() for text in texts))))
    if len(unique) <= rule.reference_size:
        return unique
    chosen = np.random.default_rng(rule.seed).choice(len(unique), rule.reference_size, replace=False)
    return [unique[i] for i in sorted(chosen)]


def windows(n: int, size: int) -> list[range]:
    """Cut `n` texts in time order into windows of `size`; a remainder of at least half is a window, a smaller one joins the last."""
    if n == 0:
        return []
    cuts = list(range(0, n, size))
    if len(cuts) > 1 and (n - cuts[-1]) * 2 < size:
        cuts.pop()
    return [range(start, end) for start, end in zip(cuts, [*cuts[1:], n], strict=True)]


def novelty_of(vectors: Vectors, reference: Vectors) -> NDArray[np.float64]:
    """1 - the largest cosine to the reference, for each of the unit-length `vectors`."""
    return 1.0 - (vectors @ reference.T).max(axis=1).astype(np.float64)


def mmd_of(vectors: Vectors, reference: Reference) -> float:
    """Unbiased estimate of the squared MMD (it may be slightly negative)."""
    own = _mean_of_pairs(np.exp(-reference.gamma * _squared_distances(vectors, vectors)))
    across = float(np.exp(-reference.gamma * _squared_distances(vectors, reference.vectors)).mean(dtype=np.float64))
    return own + reference.inner - 2 * across


def drift_windows(
    texts: Sequence[str],
    reference: Reference,
    embed: Embed,
    past: Past = NO_PAST,
    rule: DriftRule = DEFAULT_RULE,
) -> list[Window]:
    """Judge the texts of one day, in time order, window by window against the windows of earlier days.

    `embed` maps texts to an array (n, dimensions); it is called once, with each different text once.
    """
    if not texts:
        return []
    unique = list(dict.fromkeys(texts))
    where = {text: i for i, text in enumerate(unique)}
    vectors = _unit(np.asarray(embed(unique), dtype=np.float32))
    if vectors.shape != (len(unique), reference.vectors.shape[1]):
        raise InputError(f"embeddings: received shape {vectors.shape}, expected {(len(unique), reference.vectors.shape[1])}")
    novelty = novelty_of(vectors, reference.vectors)
    judged: list[Window] = []
    cusum = past.cusum
    for number, part in enumerate(windows(len(texts), rule.window)):
        rows = np.array([where[texts[i]] for i in part])
        window = _judge(number, rows, novelty, vectors, unique, reference, past, cusum, rule)
        cusum = 0.0 if window.alarm else window.cusum
        judged.append(window)
    return judged


def _judge(
    number: int,
    rows: NDArray[np.int64],
    novelty: NDArray[np.float64],
    vectors: Vectors,
    unique: Sequence[str],
    reference: Reference,
    past: Past,
    cusum: float,
    rule: DriftRule,
) -> Window:
    mean_novelty = float(novelty[rows].mean())
    mmd = mmd_of(vectors[rows], reference) if len(rows) > 1 else 0.0
    novelty_z = mmd_z = None
    status = "calibrating"
    if len(past.novelty) >= rule.past and len(rows) * 2 >= rule.window:
        novelty_z, mmd_z = _z(mean_novelty, past.novelty), _z(mmd, past.mmd)
        cusum = max(0.0, cusum + (novelty_z + mmd_z) / 2 - rule.cusum_k)
        status = "alarm" if max(novelty_z, mmd_z) > rule.z_alarm or cusum > rule.cusum_h else "calm"
    distinct = np.unique(rows)
    far = distinct[np.argsort(-novelty[distinct], kind="stable")][: rule.farthest]
    return Window(number, len(rows), mean_novelty, mmd, novelty_z, mmd_z, cusum, status, [unique[i] for i in far])


def _z(value: float, past: Sequence[float]) -> float:
    """Prediction z-score of a new window: the mean of the past is itself uncertain, hence sqrt(1 + 1/n)."""
    sd = max(float(np.std(past, ddof=1)), 1e-9)
    return (value - float(np.mean(past))) / (sd * float(np.sqrt(1 + 1 / len(past))))


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def _squared_distances(left: Vectors, right: Vectors) -> NDArray[np.float32]:
    return np.maximum(2.0 - 2.0 * (left @ right.T), 0.0)


def _mean_of_pairs(kernel: NDArray[np.float32]) -> float:
    """Mean over ordered pairs of different items; the diagonal is 1 by construction of the kernel."""
    n = len(kernel)
    return float((kernel.sum(dtype=np.float64) - np.trace(kernel, dtype=np.float64)) / (n * (n - 1)))
