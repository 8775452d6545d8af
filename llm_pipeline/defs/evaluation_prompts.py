"""Asset of a prompt change: what the prompt file in the project would do to the answers that customers get now."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from llm_pipeline.defs.evaluation import COMMON
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.paths import DATA


class PromptConfig(dg.Config):
    """Which file is looked at, and how many questions of each suite are asked."""

    prompt: str = str(DATA / "prompts" / "answer.yaml")
    limit: int = 40
    max_new_tokens: int = 40


@dg.asset(
    **COMMON,
    deps=["candidate_model", "evaluation_suites", "vector_index"],
    kinds={"mlflow", "html"},
    pool="evaluation",
    check_specs=[dg.AssetCheckSpec("promises_kept", asset="prompt_report", description="The tests that the prompt file carries hold.")],
)
def prompt_report(home: HomeResource, config: PromptConfig) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Whether the prompt differs from the live release's, and if so which answers change, which metrics, and how surely."""
    from llm_pipeline.evaluation.prompt_report import broken_promises, build_prompt_report
    from llm_pipeline.prompts import find_file

    place, file = home.open(), find_file(config.prompt)
    broken = broken_promises(place, file)
    artifact = build_prompt_report(place, file, limit=config.limit, max_new_tokens=config.max_new_tokens)
    shown: dict[str, Any] = {key: value for key, value in artifact.info.items() if value is not None}
    if artifact.info["changed"]:
        report = artifact.json("report.json")
        shown |= {
            "change": dg.MetadataValue.md("```diff\n" + "\n".join(report["diff"]) + "\n```"),
            "figures": dg.MetadataValue.md(_figures(report["metrics"])),
            "flips": dg.MetadataValue.json([change for change in report["changed"] if change["flip"]][:20]),
            "report": dg.MetadataValue.path(str(artifact.path / "report.html")),
        }
    check = dg.AssetCheckResult(check_name="promises_kept", passed=not broken, metadata={"tests": len(file.tests), "failed": broken})
    return dg.MaterializeResult(
        metadata=shown | {"reused": artifact.reused}, data_version=dg.DataVersion(artifact.id), check_results=[check]
    )


def _figures(metrics: Mapping[str, Any]) -> str:
    lines = ["| metric | before | after | difference [90%] |", "|---|---|---|---|"]
    for name, m in metrics.items():
        gap = m["difference"]
        lines.append(f"| {name} | {m['before']:.3f} | {m['after']:.3f} | {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] |")
    return "\n".join(lines)


defs = dg.Definitions(assets=[prompt_report])
