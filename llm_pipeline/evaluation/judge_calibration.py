"""May this judge decide anything? Its agreement with people, beside judges that see only length or order, on the same labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import build
from llm_pipeline.errors import ConfigError, InputError, MissingError
from llm_pipeline.evaluation.agreement import PassTable, Weights, agreement, corrected_rate, kappa_gain, pass_table
from llm_pipeline.evaluation.compare import Interval, score_interval
from llm_pipeline.evaluation.judge import Judge, Judged, Progress, positions
from llm_pipeline.evaluation.judge_labels import Label, Labelled, baseline_verdicts
from llm_pipeline.evaluation.judge_rubric import CHOICES, Rubric
from llm_pipeline.paths import DATA
from llm_pipeline.store import content_hash

POLICY = DATA / "policies" / "judges.yaml"


@dataclass(frozen=True)
class JudgePolicy:
    """What a judge must have shown on human labels before its scores may gate (`data/policies/judges.yaml`)."""

    minimum_labels: int = 150
    minimum_kappa: float = 0.4
    """The lower bound of the interval must reach it."""
    minimum_consistency: float = 0.6
    """Of a pairwise judge: share of pairs with the same verdict in both orders."""
    maximum_unparsable: float = 0.05
    """Share of cases without a verdict, in the calibration and in the run."""
    beat_baselines: bool = True
    """Agreement must surely exceed that of every judge which does not read the answers."""

    def __post_init__(self) -> None:
        shares = (self.minimum_kappa, self.minimum_consistency, self.maximum_unparsable)
        if self.minimum_labels < 20 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"judge policy: received {self}, expected minimum_labels of 20 or more and shares from 0 to 1")


@dataclass(frozen=True)
class Calibration:
    """What a judge showed on one set of labels; holds for the judge of this id only."""

    judge: str
    rubric: str
    rubric_id: str
    model: str
    kind: Literal["pointwise", "pairwise"]
    measure: Literal["cohen", "cohen_quadratic"]
    labels: str
    """Hash of the labelled cases."""
    n: int
    """Labels with a verdict, which the figures are about."""
    unparsable: float
    kappa: Interval
    raw: float
    ac1: float
    baselines: Mapping[str, Mapping[str, Any]]
    """Of each: its own kappa and raw agreement, and `gain`, by how much the judge's kappa is higher."""
    passing: PassTable | None = None
    consistency: float | None = None
    first_share: float | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"passing": self.passing._asdict() if self.passing else None}


def read_calibration(path: Path) -> Calibration:
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such calibration; `llm-pipeline judge calibrate` makes one") from None
    except ValueError as error:
        raise InputError(f"{path}: expected a calibration as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a calibration as one JSON object, received {str(raw)[:80]}")
    for name in ("may_gate", "gate_reason"):
        raw.pop(name, None)
    raw |= {name: _unnulled(raw[name]) for name in ("kappa", "raw", "ac1", "baselines") if name in raw}
    if isinstance(raw.get("passing"), dict):
        raw["passing"] = tuple(raw["passing"].get(name) for name in PassTable._fields)
    return build(Calibration, raw, str(path))


def _unnulled(value: Any) -> Any:
    """JSON has no NaN: what could not be computed was written as null."""
    if isinstance(value, dict):
        return {key: _unnulled(item) for key, item in value.items()}
    return nan if value is None else value


def calibrate(judge: Judge, labels: Sequence[Labelled], progress: Progress | None = None) -> Calibration:
    """Ask the judge about every labelled case and compare."""
    if judge.rubric.kind == "pointwise":
        judged, usage = judge.score([labelled.case for labelled in labels], progress)
    else:
        judged, usage = judge.prefer([(labelled.case, labelled.other or labelled.case) for labelled in labels], progress)
    return compared(judge, labels, judged, usage)


def compared(judge: Judge, labels: Sequence[Labelled], judged: Sequence[Judged], usage: Mapping[str, Any]) -> Calibration:
    """The calibration of verdicts that are already there."""
    pairs = [(labelled, j) for labelled, j in zip(labels, judged, strict=True) if j.verdict is not None]
    known = [labelled for labelled, _ in pairs]
    truth = [labelled.label for labelled in known]
    verdicts = [_as_label(judge.rubric, j, labelled.label) for labelled, j in pairs]
    values, weights = _values(judge.rubric, truth)
    found = agreement(truth, verdicts, values, weights)
    baselines = {}
    for name, guesses in baseline_verdicts(judge.rubric, known).items():
        own = agreement(truth, guesses, values, weights)
        gain = kappa_gain(truth, verdicts, guesses, values, weights) if truth else Interval(float("nan"), float("nan"), float("nan"), 0)
        baselines[name] = {"kappa": own.kappa.mean, "raw": own.raw, "gain": asdict(gain)}
    order = positions(judged) if judge.rubric.kind == "pairwise" else {}
    return Calibration(
        judge=judge.id,
        rubric=judge.rubric.name,
        rubric_id=judge.rubric.id,
        model=judge.endpoint.model,
        kind=judge.rubric.kind,
        measure="cohen" if weights == "nominal" else "cohen_quadratic",
        labels=content_hash(
            [[*lab.case.key, lab.case.question, lab.case.answer, lab.other and lab.other.answer, lab.label] for lab in labels]
        ),
        n=len(pairs),
        unparsable=round(1 - len(pairs) / len(labels), 4) if labels else 0.0,
        kappa=found.kappa,
        raw=found.raw,
        ac1=found.ac1,
        baselines=baselines,
        passing=_passing(judge.rubric, truth, [j for _, j in pairs]),
        consistency=order.get("consistent"),
        first_share=order.get("first_share"),
        usage=usage,
    )


def may_gate(calibration: Calibration | None, policy: JudgePolicy, judge: str | None = None) -> tuple[bool, str]:
    """Whether scores of this judge may decide, and the reason either way; `judge` is the id of the one that is about to be used."""
    if calibration is None:
        return False, "no calibration: the judge's agreement with people is not known; run `llm-pipeline judge calibrate`"
    c, low, most = calibration, calibration.kappa.low, policy.maximum_unparsable
    worse = [f"{name} (gain {b['gain']['mean']:.2f} [{b['gain']['low']:.2f}, {b['gain']['high']:.2f}])" for name, b in _unbeaten(c)]
    checks = [
        (judge in (None, c.judge), f"the calibration is of another judge ({c.rubric} {c.rubric_id}, {c.model})"),
        (c.n >= policy.minimum_labels, f"{c.n} labels, at least {policy.minimum_labels} needed"),
        (c.unparsable <= most, f"{c.unparsable:.0%} without a verdict, at most {most:.0%} allowed"),
        (isfinite(c.kappa.mean) and low >= policy.minimum_kappa, f"kappa {c.kappa}: its lower bound is below {policy.minimum_kappa}"),
        (
            c.consistency is None or c.consistency >= policy.minimum_consistency,
            f"{c.consistency or 0:.0%} of pairs have the same verdict in both orders, at least {policy.minimum_consistency:.0%} needed",
        ),
        (not worse or not policy.beat_baselines, f"does not surely beat {' or '.join(worse)}"),
    ]
    failed = [words for holds, words in checks if not holds]
    return (False, "; ".join(failed)) if failed else (True, f"kappa {c.kappa} on {c.n} labels, above every baseline")


def run_refusal(calibration: Calibration | None, policy: JudgePolicy, judge: str, judged: Sequence[Judged]) -> str:
    """Why the verdicts of one run may not gate; empty when they may."""
    allowed, reason = may_gate(calibration, policy, judge)
    missing = sum(j.verdict is None for j in judged) / max(len(judged), 1)
    if allowed and missing > policy.maximum_unparsable:
        return f"{missing:.0%} of the cases without a verdict, at most {policy.maximum_unparsable:.0%} allowed"
    return "" if allowed else reason


def pass_rates(rubric: Rubric, judged: Sequence[Judged], calibration: Calibration | None) -> dict[str, Any]:
    """The share that the judge passes and, when its errors are known, what people would pass; nothing for a pairwise rubric."""
    verdicts = [int(j.verdict) for j in judged if isinstance(j.verdict, int)]
    if rubric.kind == "pairwise" or not verdicts:
        return {}
    passed = sum(verdict >= rubric.scale.passing for verdict in verdicts)
    found: dict[str, Any] = {"pass_rate": asdict(score_interval([float(verdict >= rubric.scale.passing) for verdict in verdicts]))}
    if calibration and calibration.passing:
        found["corrected_pass_rate"] = asdict(corrected_rate(passed, len(verdicts), calibration.passing))
    return found


def _unbeaten(calibration: Calibration) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, b) for name, b in calibration.baselines.items() if not b["gain"]["low"] > 0]


def _as_label(rubric: Rubric, judged: Judged, label: Label) -> Label:
    verdict = judged.verdict
    return int(verdict or 0) >= rubric.scale.passing if isinstance(label, bool) else verdict if verdict is not None else ""


def _values(rubric: Rubric, truth: Sequence[Label]) -> tuple[tuple[Label, ...], Weights]:
    if rubric.kind == "pairwise":
        return CHOICES, "nominal"
    return ((False, True), "nominal") if truth and isinstance(truth[0], bool) else (rubric.scale.values, "quadratic")


def _passing(rubric: Rubric, truth: Sequence[Label], judged: Sequence[Judged]) -> PassTable | None:
    if rubric.kind == "pairwise":
        return None
    passes = [label if isinstance(label, bool) else int(label) >= rubric.scale.passing for label in truth]
    return pass_table(passes, [int(j.verdict or 0) >= rubric.scale.passing for j in judged])
