"""May the challenger replace the champion? Better on the primary metric, no worse on any guard, each by a paired test.

Which error is held to what:

- A wrong promotion needs every test to fail together: the primary metric must be shown better AND each guard no worse than its margin.
  That is an intersection-union test, whose level is `alpha` without any correction, however many guards there are (Berger 1982).
- A wrong rejection needs one test to fail of many: "this metric got worse" is asked of each, so those p-values are corrected by Holm
  (1979), and the chance of one false claim among all metrics is at most `alpha_reject`.
- Without a named primary metric a gain on any metric counts, so the best one's p-value is multiplied by their number (Bonferroni).

What is neither shown good nor shown bad is "insufficient", with the number of pairs that would have been enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from llm_pipeline.evaluation.gate_policy import GatePolicy
from llm_pipeline.evaluation.paired import detectable, holm
from llm_pipeline.evaluation.pairing import Pairing, pair_metrics
from llm_pipeline.evaluation.scores import Scores

Verdict = Literal["promote", "reject", "insufficient"]
POWERS = (0.8, 0.9)


@dataclass(frozen=True)
class Decision:
    """The verdict, why, and every figure behind it; `notes` say what was left out."""

    verdict: Verdict
    reasons: tuple[str, ...]
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def compared(self) -> bool:
        """Whether two models were compared (False: a model alone fell short of, or reached, what is asked of every one)."""
        return any("difference" in figures for figures in self.metrics.values())

    def json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "reasons": list(self.reasons), "metrics": self.metrics, "notes": list(self.notes)}


def judge(champion: Scores, challenger: Scores, policy: GatePolicy | None = None) -> Decision:
    """The verdict on `{metric: {id: score}}` of both; the same scores always give the same one.

    Raises InputError when the sides cannot be compared: no metric in common, one that the challenger lacks, or too few common ids.
    """
    policy = policy or GatePolicy()
    measures, notes = pair_metrics(champion, challenger, policy)
    voting = [m for m in measures if m.role != "report"]
    adjusted = dict(zip((m.name for m in voting), holm([m.test.below(0) for m in voting]), strict=True))
    outcomes = {m.name: _outcome(m, adjusted[m.name] <= policy.alpha_reject) for m in voting}
    results = {outcome for outcome, _ in outcomes.values()}
    verdict: Verdict = "reject" if "fail" in results else "insufficient" if "insufficient" in results else "promote"
    leading = {"promote": "pass", "reject": "fail", "insufficient": "insufficient"}[verdict]
    reasons = tuple(reason for outcome, reason in outcomes.values() if outcome == leading)
    figures = {m.name: _figures(m, adjusted.get(m.name)) | {"verdict": outcomes.get(m.name, ("report", ""))[0]} for m in measures}
    return Decision(verdict, reasons, figures, tuple(notes))


def _outcome(m: Pairing, worse: bool) -> tuple[str, str]:
    """`pass`, `fail` or `insufficient` for one metric, and the sentence that says why."""
    low, high = m.interval
    what = (
        f"{m.name} ({m.role}): {m.champion:.4g} -> {m.challenger:.4g}, change {m.change:+.4g} [{low:+.4g}, {high:+.4g}] on {m.test.n} pairs"
    )
    allowed = f"its margin {m.margin:.4g}" if m.margin is not None else ""
    if not m.enough:
        return "insufficient", f"{what}: at least {m.minimum} pairs needed"
    if m.holds:
        return "pass", f"{what}: surely better" if m.role == "primary" else f"{what}: surely loses less than {allowed}"
    if worse:
        return "fail", f"{what}: surely worse" + (f", and not surely by less than {allowed}" if m.role == "guard" else "")
    if m.idle:
        return "fail", f"{what}: equal to within {allowed}, nothing gained"
    more = f"; about {m.needed:,} pairs needed" if m.needed is not None else ""
    least = f"{detectable(m.test, m.alpha, POWERS[0]):.4g}"
    if m.role == "primary":
        return "insufficient", f"{what}: neither better nor worse for sure; a gain of {least} would be found four times of five{more}"
    return "insufficient", f"{what}: a loss beyond {allowed} is not ruled out{more} to clear an equal model four times of five"


def _figures(m: Pairing, adjusted: float | None) -> dict[str, Any]:
    """`p_value` is two-sided, of no difference; `p_promote` of the claim that promotion needs; `adjusted_p` is Holm's of `p_worse`."""
    better, worse = m.test.above(0), m.test.below(0)
    return {
        "role": m.role,
        "n": m.test.n,
        "better": "lower" if m.lower else "higher",
        "champion": m.champion,
        "challenger": m.challenger,
        "difference": m.change,
        "interval": [bound if isfinite(bound) else None for bound in m.interval],
        "level": 1 - 2 * m.alpha,
        "test": m.test.name,
        "p_value": min(1.0, 2 * min(better, worse)),
        "p_promote": m.p_promote,
        "p_worse": worse,
        "adjusted_p": adjusted,
        "margin": m.margin,
        "minimum_detectable_effect": {f"{power}": detectable(m.test, m.alpha, power) for power in POWERS},
        "pairs_needed": m.needed,
    }
