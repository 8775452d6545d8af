"""Assets of retrieval: chunks per day, one index generation over all days, and how well it finds answers."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg

from llm_pipeline.defs.partitions import daily
from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.store import Artifact, Artifacts, Home, write_atomically

QUESTIONS = 500
"""Most questions of a suite that are asked: a share near 0.95 is then known to within 0.02."""
COMMON: dict[str, Any] = {"group_name": "retrieval", "owners": ["team:search"]}


@dg.asset(
    **COMMON,
    deps=["scrubbed_documents"],
    partitions_def=daily,
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    retry_policy=dg.RetryPolicy(max_retries=1, delay=1),
    kinds={"lance"},
    tags={"stage": "retrieval"},
)
def chunks(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[None]:
    """Articles, web pages, notes and docs of a day, cut where their authors did into passages of at most 160 tokens."""
    from llm_pipeline.retrieval.chunking import chunk_table

    day, place = context.partition_key, home.open()
    documents = place.lake.read("scrubbed_documents", [day])
    rows = chunk_table(documents)
    version = place.lake.replace("chunks", day, rows)
    tokens = [n or 0 for n in rows["tokens"].to_pylist()]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows.num_rows,
            "documents": len(set(rows["document_id"].to_pylist())),
            "documents_of_the_day": documents.num_rows,
            "tokens": sum(tokens),
            "longest": max(tokens, default=0),
        },
        data_version=dg.DataVersion(version),
    )


@dg.asset(**COMMON, deps=["chunks", "evaluation_suites"], kinds={"lancedb", "sentencetransformers"}, tags={"stage": "retrieval"})
def vector_index(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[None]:
    """The newest revision of every document as vectors and full text, without leaked questions; verified before it goes live.

    Old generations go, except the newest three, the live one and those that releases name.
    """
    from llm_pipeline.retrieval.generations import collect_garbage, released
    from llm_pipeline.retrieval.index import build_index

    place = home.open()
    artifact = build_index(place, embedder=embedder(), progress=lambda done, total: context.log.debug(f"embedded {done} of {total}"))
    removed = collect_garbage(place.indexes, released(place))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(artifact.info["chunks"]),
            "dagster/uri": str(artifact.path / "lancedb"),
            "documents": int(artifact.info["documents"]),
            "leaks_left_out": int(artifact.info["leaks"]),
            "embedded": int(artifact.info["embedded"]),
            "vector_recall": float(artifact.info["vector_recall"]),
            "generation": artifact.id,
            "reused": artifact.reused,
            "removed_generations": len(removed),
        },
        data_version=dg.DataVersion(artifact.id),
    )


@dg.asset(**COMMON, deps=["vector_index", "evaluation_suites"], kinds={"json"}, tags={"stage": "retrieval"})
def retrieval_report(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[None]:
    """Recall, MRR and nDCG of the live index on the questions of every suite that names where its answers are."""
    artifact = build_retrieval_report(home.open())
    report = artifact.json("report.json")
    numbers = {f"{suite}/recall@5": float(result["recall@5"]) for suite, result in report.items()}
    return dg.MaterializeResult(
        metadata={**numbers, "plot": figure(recall_figure(report)), "figures": markdown_table(report), "reused": artifact.reused},
        data_version=dg.DataVersion(artifact.id),
    )


@dg.asset_check(asset="vector_index", description="The live generation answers a question about one of its own passages with that passage.")
def live_index_answers(home: HomeResource) -> dg.AssetCheckResult:
    from llm_pipeline.retrieval.search import Searcher

    artifact = Artifacts(home.open().indexes).named("vector_index", "live")
    searcher = Searcher(artifact.path, embedder())
    [row] = searcher.sample(1)
    found = [passage.text for passage in searcher.search(row["text"], 5)]
    return dg.AssetCheckResult(passed=row["text"] in found, metadata={"generation": artifact.id, "found": len(found)})


def build_retrieval_report(home: Home) -> Artifact:
    """The report as an artefact of index generation and suites."""
    from llm_pipeline.evaluation.suites import load_suites
    from llm_pipeline.retrieval.metrics import report
    from llm_pipeline.retrieval.search import Searcher

    index = Artifacts(home.indexes).named("vector_index", "live")
    suites = home.artifacts.named("evaluation_suites")

    def make(folder: Path) -> Mapping[str, Any]:
        rows = {name: suite.sample(QUESTIONS).rows for name, suite in load_suites(suites).items()}
        results = report(Searcher(index.path, embedder()), rows)
        write_atomically(folder / "report.json", json.dumps(results, indent=1))
        return {"suites": len(results)}

    return home.artifacts.build("retrieval_report", {"index": index.id, "suites": suites.id, "scoring": 2, "questions": QUESTIONS}, make)


@lru_cache(maxsize=1)
def embedder() -> Any:
    """The embedding model, loaded once per process."""
    from llm_pipeline.retrieval.embedding import Embedder

    return Embedder()


def recall_figure(report: Mapping[str, Mapping[str, float]]) -> Any:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7, 0.6 + 0.5 * max(1, len(report))))
    axes = fig.add_subplot()
    for offset, name in enumerate(("recall@1", "recall@5", "mrr")):
        axes.barh([i + 0.25 * (offset - 1) for i in range(len(report))], [r[name] for r in report.values()], height=0.22, label=name)
    axes.set_yticks(range(len(report)), list(report))
    axes.set_xlim(0, 1)
    axes.legend(loc="lower left", fontsize=8)
    return fig


def markdown_table(report: Mapping[str, Mapping[str, float]]) -> dg.MarkdownMetadataValue:
    names: Sequence[str] = list(next(iter(report.values()), {}))
    lines = [["suite", *names], ["---"] * (len(names) + 1), *[[s, *[f"{r[n]:.4g}" for n in names]] for s, r in report.items()]]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


defs = dg.Definitions(assets=[chunks, vector_index, retrieval_report], asset_checks=[live_index_answers])
