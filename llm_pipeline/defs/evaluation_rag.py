"""Asset of evaluation: what goes wrong between the question, the passages and the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource

_COLOURS = {"right": "#1a7f37", "not found": "#8a8f98", "misread": "#c0392b", "refused": "#d08a1d", "made up": "#7b3fa0"}


@dg.asset(group_name="evaluation", owners=["team:ml"], tags={"stage": "evaluation"}, deps=["eval_report"], kinds={"html"})
def rag_report(home: HomeResource) -> dg.MaterializeResult[None]:
    """Answers over passages taken apart: found, read, refused or made up, and the gain over memory."""
    from llm_pipeline.evaluation.rag import build_rag

    artifact = build_rag(home.open())
    results = artifact.json("report.json")["results"]
    return dg.MaterializeResult(
        metadata={
            **{f"right/{r['suite']}/{r['model']}": float(r["right"]["mean"]) for r in results},
            **{f"found/{r['suite']}/{r['model']}": float(r["found"]) for r in results if r["found"] is not None},
            "figures": _table(results),
            "plot": figure(_plot(results)),
            "report": dg.MetadataValue.path(str(artifact.path / "report.html")),
            "reused": artifact.reused,
        },
        data_version=dg.DataVersion(artifact.id),
    )


def _table(results: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    heads = ("suite", "model", "n", "right", "found", "right when found", "gain over memory", *list(_COLOURS)[1:])
    lines = [heads, ("---",) * len(heads)]
    for r in results:
        gain = f"{r['gain']['mean']:.3f} [{r['gain']['low']:.3f}, {r['gain']['high']:.3f}]" if r["gain"] else ""
        shares = ["" if value is None else f"{value:.3f}" for value in (r["right"]["mean"], r["found"], r["right_when_found"])]
        lines.append((r["suite"], r["model"], str(r["n"]), *shares, gain, *(str(r["outcomes"][name]) for name in list(_COLOURS)[1:])))
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _plot(results: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 1.2 + 0.3 * len(results)))
    axes = fig.add_subplot()
    for y, r in enumerate(reversed(results)):
        left = 0.0
        for name, colour in _COLOURS.items():
            share = r["outcomes"][name] / r["n"]
            axes.barh(y, share, left=left, color=colour, label=name if y == 0 else None)
            left += share
    axes.set_yticks(range(len(results)), [f"{r['suite']} · {r['model']}" for r in reversed(results)], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the questions")
    if results:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=5, fontsize=8, frameon=False)
    return fig


defs = dg.Definitions(assets=[rag_report])
