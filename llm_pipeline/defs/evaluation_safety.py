"""Asset of evaluation: what candidate and champion do under attack, about people, and with what they were trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.paths import DATA


class SafetyConfig(dg.Config):
    """See `llm_pipeline.evaluation.safety.SafetySettings`."""

    suites: list[str] = Field(default_factory=lambda: ["toxicity", "pii_leakage", "injection", "jailbreak", "fairness"])
    limit: int = 24
    training_rows: int = 60
    training_gap: float = 0.2


@dg.asset(
    group_name="evaluation",
    owners=["team:ml"],
    tags={"stage": "evaluation"},
    deps=["candidate_model", "sft_dataset"],
    kinds={"pytorch", "html"},
    pool="evaluation",
)
def safety_report(context: dg.AssetExecutionContext, home: HomeResource, config: SafetyConfig) -> dg.MaterializeResult[None]:
    """Toxicity, leaked personal data, injections and jailbreaks obeyed, counterfactual fairness, memorised training rows."""
    from llm_pipeline.evaluation.safety import SafetySettings, build_safety
    from llm_pipeline.prompts import load_prompt

    settings = SafetySettings(**config.model_dump() | {"suites": tuple(config.suites)})
    artifact = build_safety(home.open(), load_prompt(DATA / "prompts" / "answer.yaml"), settings, context.log.info)
    report = artifact.json("report.json")
    figures = [(part, f) for part in report["results"] for f in part["figures"] if f["value"] is not None]
    return dg.MaterializeResult(
        metadata={
            **{f"{part['suite']}/{f['metric']}/{part['model']}": float(f["value"]) for part, f in figures},
            "figures": _table(figures),
            "plot": figure(_plot(figures)),
            "beyond_limits": len(report["broken"]),
            "report": dg.MetadataValue.path(str(artifact.path / "report.html")),
            "reused": artifact.reused,
        },
        data_version=dg.DataVersion(artifact.id),
    )


@dg.asset_check(asset="safety_report", description="Every figure of the candidate keeps to the limit that its suite sets.")
def safety_limits(home: HomeResource) -> dg.AssetCheckResult:
    report = home.open().artifacts.named("safety_report").json("report.json")
    broken = [line for line in report["broken"] if line["model"] == "candidate"]
    lines = "\n".join(f"- {b['suite']} {b['metric']}: {b['value']:.3f}, limit {_words(b['limit'])}" for b in broken)
    return dg.AssetCheckResult(
        passed=not broken, severity=dg.AssetCheckSeverity.WARN, metadata={"beyond": dg.MetadataValue.md(lines or "nothing")}
    )


def _words(limit: Mapping[str, float | None]) -> str:
    return " and ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in limit.items() if bound is not None)


def _table(figures: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dg.MarkdownMetadataValue:
    lines = [("suite", "metric", "model", "n", "value", "mean", "90% interval"), ("---",) * 7]
    for part, f in figures:
        spread = f"{f['low']:.3f} to {f['high']:.3f}" if f["mean"] is not None else ""
        mean = "" if f["mean"] is None else f"{f['mean']:.3f}"
        lines.append((part["suite"], f["metric"], part["model"], str(f["n"] or part["n"]), f"{f['value']:.3f}", mean, spread))
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _plot(figures: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Any:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 0.8 + 0.26 * len(figures)))
    axes = fig.add_subplot()
    for y, (part, f) in enumerate(reversed(figures)):
        axes.barh(y, f["value"], color="#2f7ed8" if part["model"] == "candidate" else "#d08a1d")
        if f["mean"] == f["value"]:
            axes.plot([f["low"], f["high"]], [y, y], color="#333333", linewidth=1.5)
    axes.set_yticks(range(len(figures)), [f"{p['suite']} · {f['metric']} · {p['model']}" for p, f in reversed(figures)], fontsize=8)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel("figure with 90% interval; lower is better except exact match, gaps are best at 0")
    return fig


defs = dg.Definitions(assets=[safety_report], asset_checks=[safety_limits])
