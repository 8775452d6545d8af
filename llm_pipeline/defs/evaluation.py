"""Assets of evaluation: the report on base, candidate and champion, and the decision that the release reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.tables import records
from llm_pipeline.paths import DATA

COMMON: dict[str, Any] = {"group_name": "evaluation", "owners": ["team:ml"], "tags": {"stage": "evaluation"}}


class EvalConfig(dg.Config):
    """What is asked; the suite that decides is chosen by the snapshot's last day when `primary` is empty."""

    primary: str = ""
    limit: int = 150
    limit_other: int = 40
    max_new_tokens: int = 40
    passages: int = 1
    base_retrieval: bool = False


class GateConfig(dg.Config):
    """What every candidate must reach; see `llm_pipeline.evaluation.promotion`."""

    minimum_em: float = 0.5
    minimum_rows: int = 50


@dg.asset(
    **COMMON, deps=["base_model", "candidate_model", "evaluation_suites", "vector_index"], kinds={"pytorch", "html"}, pool="evaluation"
)
def eval_report(context: dg.AssetExecutionContext, home: HomeResource, config: EvalConfig) -> dg.MaterializeResult[None]:
    """Exact match, ROUGE-L, refusals, groundedness and perplexity of each model, with and without retrieval, with intervals."""
    from llm_pipeline.evaluation.build import EvalSettings, build_report
    from llm_pipeline.evaluation.logged import log_report
    from llm_pipeline.prompts import load_prompt

    settings = EvalSettings(**config.model_dump())
    artifact = build_report(home.open(), load_prompt(DATA / "prompts" / "answer.yaml"), settings, context.log.info)
    report = artifact.json("report.json")
    results = report["results"]
    return dg.MaterializeResult(
        metadata={
            **{f"em/{r['suite']}/{r['model']}/{r['mode']}": float(r["em"]) for r in results},
            "primary": report["primary"],
            "figures": results_table(results),
            "plot": figure(em_figure(results)),
            "slices": records(report["slices"]),
            "mlflow_run_id": log_report(home.open(), artifact),
            "report": dg.MetadataValue.path(str(artifact.path / "report.html")),
            "reused": artifact.reused,
        },
        data_version=dg.DataVersion(artifact.id),
    )


@dg.asset(**COMMON, deps=["eval_report"], kinds={"json"})
def promotion_decision(home: HomeResource, config: GateConfig) -> dg.MaterializeResult[None]:
    """Promote, reject or insufficient: better on the primary suite, no loss beyond its margin on any guard, by paired tests."""
    from llm_pipeline.evaluation.build import build_decision
    from llm_pipeline.evaluation.logged import log_decision

    artifact, decision = build_decision(home.open(), minimum_em=config.minimum_em, minimum_rows=config.minimum_rows)
    record = artifact.json("decision.json")
    shown: dict[str, Any] = {}
    if decision.compared:
        comparison = artifact.json("comparison.json")
        shown = {
            "plot": figure(difference_figure(decision.metrics)),
            "slices": records([line | {"interval": str(line["interval"])} for line in comparison["slices"]]),
            "report": dg.MetadataValue.path(str(artifact.path / "comparison.html")),
        }
    return dg.MaterializeResult(
        metadata={
            "verdict": decision.verdict,
            "promoted": int(decision.verdict == "promote"),
            "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in decision.reasons)),
            "champion": record["champion"] or "none",
            "challenger": record["challenger"],
            "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in decision.notes) or "none"),
            "gate": gate_table(decision.metrics),
            "measured": dg.MetadataValue.json(record["metrics"]),
            "mlflow_run_id": log_decision(home.open(), artifact),
            **shown,
            "reused": artifact.reused,
        },
        data_version=dg.DataVersion(artifact.id),
    )


@dg.asset_check(
    asset="eval_report", description="The candidate stops by itself on at least nine answers of ten (its end token was learned)."
)
def candidate_stops(home: HomeResource) -> dg.AssetCheckResult:
    results = home.open().artifacts.named("eval_report").json("report.json")["results"]
    mine = [r for r in results if r["model"] == "candidate" and r["mode"] == "closed"]
    share = sum(r["finished"] * r["n"] for r in mine) / max(1, sum(r["n"] for r in mine))
    return dg.AssetCheckResult(passed=share >= 0.9, metadata={"finished": float(share)}, severity=dg.AssetCheckSeverity.WARN)


def em_figure(results: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 0.8 + 0.24 * len(results)))
    axes = fig.add_subplot()
    for y, r in enumerate(reversed(results)):
        colour = {"base": "#8a8f98", "candidate": "#2f7ed8"}.get(r["model"], "#d08a1d")
        axes.barh(y, r["em"], color=colour, alpha=1 if r["mode"] == "closed" else 0.6)
        axes.plot([r["em_low"], r["em_high"]], [y, y], color="#333333", linewidth=1.5)
    axes.set_yticks(range(len(results)), [f"{r['suite']} · {r['model']} · {r['mode']}" for r in reversed(results)], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("exact match, 90% interval")
    return fig


def difference_figure(metrics: Mapping[str, Any]) -> Any:
    """Challenger minus champion with intervals; the short line is what a guard may lose."""
    from matplotlib.figure import Figure

    judged = [(name, m) for name, m in reversed(list(metrics.items())) if "difference" in m]
    fig = Figure(figsize=(8, 0.9 + 0.3 * len(judged)))
    axes = fig.add_subplot()
    for y, (_, m) in enumerate(judged):
        colour = {"pass": "#1a7f37", "fail": "#c0392b"}.get(m["verdict"], "#8a8f98")
        axes.plot(m["interval"], [y, y], color=colour, linewidth=2)
        axes.plot([m["difference"]], [y], "o", color=colour)
        if m["margin"] is not None:
            axes.plot([-m["margin"]] * 2, [y - 0.3, y + 0.3], color="#333333", linewidth=1)
    axes.axvline(0, color="#8a8f98", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(judged)), [f"{name} ({m['role']})" for name, m in judged], fontsize=8)
    axes.set_ylim(-0.6, len(judged) - 0.4)
    axes.set_xlabel("challenger minus champion, with interval; | the margin")
    return fig


def gate_table(metrics: Mapping[str, Any]) -> dg.MarkdownMetadataValue:
    names = ("role", "n", "champion", "challenger", "difference", "p_value", "adjusted_p", "margin", "pairs_needed", "verdict")
    rows = [(name, *(_cell(m.get(key)) for key in names)) for name, m in metrics.items()]
    lines = [("metric", *names), ["---"] * (1 + len(names)), *rows]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


def results_table(results: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    names = ("suite", "model", "mode", "n", "em", "em_low", "em_high", "rouge_l", "refusal", "groundedness", "perplexity")
    lines = [names, ["---"] * len(names), *[[_cell(r[name]) for name in names] for r in results]]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


defs = dg.Definitions(assets=[eval_report, promotion_decision], asset_checks=[candidate_stops])
