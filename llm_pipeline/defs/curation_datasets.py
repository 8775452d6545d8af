"""Curation as assets, second half: scrubbed documents, signatures, and the snapshots that training and evaluation read."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm_pipeline.curation.sources import load_sources
from llm_pipeline.curation.tally import frequency
from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.tables import DAILY, SNAPSHOT, bars, blocking, check, check_contract, contract_spec, made, records
from llm_pipeline.paths import DATA
from llm_pipeline.store import file_hash

Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]


class SnapshotConfig(dg.Config):
    """Which days make the snapshot: `window_days` up to `until` (an ISO date; null is the latest day that is there)."""

    until: str | None = None
    window_days: int = 7


class SftConfig(dg.Config):
    """What decides the draw of the tuning dataset beside the snapshot."""

    seed: int = 0


@dg.asset(
    **DAILY,
    kinds={"lance", "polars"},
    tags={"stage": "scrub"},
    deps=["filtered_documents"],
    code_version=file_hash(DATA / "policies" / "pii.yaml"),
    check_specs=[
        contract_spec("scrubbed_documents"),
        blocking(
            "scrubbed_documents",
            "no_pii_left",
            "A second scan of the scrubbed text, titles and messages finds nothing; run before publishing",
        ),
    ],
)
def scrubbed_documents(context: dg.AssetExecutionContext, home: HomeResource) -> Results:
    """Documents without personal data: 20 types found by rules, checksums and name lists, replaced as data/policies/pii.yaml says."""
    from llm_pipeline.curation.engine import map_chunks
    from llm_pipeline.curation.pii import load_policy
    from llm_pipeline.curation.scrubbing import examples, remaining, scrub_day

    place, day, policy = home.open(), context.partition_key, load_policy()
    rows, spans, ledger = map_chunks(lambda chunk: scrub_day(chunk, day, policy), place.lake.read("filtered_documents", [day]))
    left = remaining(rows, policy)
    contract = check_contract(place, "scrubbed_documents", day, rows)
    yield contract
    yield check("scrubbed_documents", "no_pii_left", left, spans=spans.num_rows)
    if left or not contract.passed:
        raise dg.Failure(
            f"scrubbed_documents, {day}: a second scan still finds {left or 'a broken contract'}; nothing was published",
            allow_retries=False,
        )
    place.lake.replace("scrubbed_ledger", day, ledger)
    place.lake.replace("scrubbed_spans", day, spans)
    version = place.lake.replace("scrubbed_documents", day, rows)
    types = dict(frequency(spans, "entity").most_common())
    metadata: dict[str, Any] = {
        "dagster/row_count": rows.num_rows,
        "spans": spans.num_rows,
        "documents_changed": pc.count_distinct(spans["id"]).as_py(),
        "types": records([{"entity": name, "spans": n, "mode": policy.mode(name)} for name, n in types.items()]),
        "examples": records([dict(example) for example in examples(rows, spans)]),
        "policy": policy.id,
        **bars(types, f"Personal data replaced, {day}", "spans"),
    }
    yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))


@dg.asset(
    **DAILY,
    kinds={"lance", "daft"},
    tags={"stage": "sign"},
    deps=["scrubbed_documents"],
)
def signatures(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
    """MinHash signatures (128 permutations of 5-word shingles) and text hashes, so that duplicates are found over all days cheaply."""
    from llm_pipeline.curation.engine import map_chunks
    from llm_pipeline.curation.files import ids, texts
    from llm_pipeline.curation.signatures import sign

    place, day = home.open(), context.partition_key
    rows: pa.Table = place.lake.read("scrubbed_documents", [day], ["id", "text"])
    [signed] = map_chunks(lambda chunk: [sign(ids(chunk), texts(chunk))], rows)
    version = place.lake.replace("signatures", day, signed)
    metadata = {"dagster/row_count": signed.num_rows, "distinct_texts": pc.count_distinct(signed["text_hash"]).as_py()}
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))


@dg.asset(**SNAPSHOT, kinds={"json"}, tags={"stage": "suites"})
def evaluation_suites(home: HomeResource) -> dg.MaterializeResult[Any]:
    """The questions that models are judged by: the bank's own (held-out phrasings only) and those of user sources."""
    from llm_pipeline.curation.suites import build_suites

    place = home.open()
    artifact = build_suites(place, load_sources(DATA / "sources.yaml", place.root / "sources.yaml"))
    index = artifact.json("suites.json")
    rows = [{"suite": name, "rows": entry["rows"], "valid_from": entry["valid_from"] or ""} for name, entry in index.items()]
    return made("evaluation_suites", artifact, {"dagster/row_count": sum(row["rows"] for row in rows), "suites": records(rows)})


@dg.asset(
    **SNAPSHOT,
    kinds={"parquet", "numpy"},
    tags={"stage": "snapshot"},
    deps=["scrubbed_documents", "signatures", "evaluation_suites"],
    check_specs=[
        contract_spec("corpus_snapshot"),
        blocking(
            "corpus_snapshot",
            "removals_are_explained",
            "Every removed duplicate names a kept twin it truly matches, every leak its question",
        ),
    ],
)
def corpus_snapshot(config: SnapshotConfig, home: HomeResource) -> Results:
    """A window of days without duplicates (over all days), older article revisions and evaluation questions; one verdict per document."""
    from llm_pipeline.curation.contracts import rows_for
    from llm_pipeline.curation.heterogeneity import heterogeneity, plots, sample
    from llm_pipeline.curation.snapshot import build_snapshot, problems

    place = home.open()
    artifact = build_snapshot(place, config.until, config.window_days)
    place.lake.tag("scrubbed_documents", artifact.info["days"], f"snapshot-{artifact.id}")
    clusters = pq.read_table(artifact.file("clusters.parquet"))
    info = artifact.info
    documents = artifact.file("documents.parquet")
    yield check_contract(place, "corpus_snapshot", str(info["until"]), rows_for("corpus_snapshot", documents))
    yield check("corpus_snapshot", "removals_are_explained", problems(clusters))
    variety = heterogeneity(sample(documents, ["id", "text", "source", "kind", "language", "cluster_id"]))
    metadata = {
        "dagster/row_count": info["reasons"].get("kept", 0),
        "variety": dg.MetadataValue.json(variety),
        **{f"variety/{name}": figure(plot) for name, plot in plots(variety).items()},
        "received": info["documents"],
        "until": info["until"],
        "days": len(info["days"]),
        "suites": info["suites"] or "none",
        "reasons": records([{"reason": reason, "documents": n} for reason, n in info["reasons"].items()]),
        **bars({f"{size} documents": n for size, n in info["cluster_sizes"].items()}, "Clusters by size", "clusters"),
    }
    yield made("corpus_snapshot", artifact, metadata)


@dg.asset(
    **SNAPSHOT,
    kinds={"json"},
    tags={"stage": "sft"},
    deps=["corpus_snapshot"],
    check_specs=[
        blocking("sft_dataset", "no_leak_into_validation", "Train and validation share no cluster and no question"),
        blocking("sft_dataset", "rows_are_trainable", "Roles alternate, no turn is empty, there are closed questions"),
    ],
)
def sft_dataset(config: SftConfig, home: HomeResource) -> Results:
    """Questions and short answers of the snapshot's conversations: from memory, with passages, and with passages that do not answer."""
    from llm_pipeline.curation.sft import build_sft, counts, leaks, problems

    place = home.open()
    artifact = build_sft(place, place.artifacts.named("corpus_snapshot"), config.seed)
    train, validation = artifact.jsonl("train.jsonl"), artifact.jsonl("validation.jsonl")
    yield check("sft_dataset", "no_leak_into_validation", leaks(train, validation))
    yield check("sft_dataset", "rows_are_trainable", problems([*train, *validation])[:10])
    kinds = sorted({*counts(train), *counts(validation)})
    rows = [{"kind": kind, "train": counts(train).get(kind, 0), "validation": counts(validation).get(kind, 0)} for kind in kinds]
    metadata = {
        "dagster/row_count": len(train) + len(validation),
        "train": len(train),
        "validation": len(validation),
        "snapshot": str(artifact.info["snapshot"]),
        "kinds": records(rows),
        **bars(counts(train), "Rows by kind", "rows"),
    }
    yield made("sft_dataset", artifact, metadata)


@dg.asset(
    **SNAPSHOT,
    kinds={"json"},
    tags={"stage": "preferences"},
    deps=["sft_dataset", "corpus_snapshot"],
    check_specs=[
        blocking("preference_dataset", "pairs_are_trainable", "Two different answers to a question of the user, no turn is empty"),
        blocking("preference_dataset", "no_leak_into_validation", "Train and validation share no cluster and no prompt"),
    ],
)
def preference_dataset(config: SftConfig, home: HomeResource) -> Results:
    """Right answers beside stale, wrong and invented ones, and what people said about logged answers."""
    from llm_pipeline.curation.preferences import build_preferences, leaks, problems

    place = home.open()
    interactions = place.lake.read("interactions").to_pylist() if place.lake.days("interactions") else []
    tuning = place.artifacts.named("sft_dataset")
    snapshot = place.artifacts.get("corpus_snapshot", str(tuning.info["snapshot"]))
    artifact = build_preferences(place, tuning, snapshot, interactions, config.seed)
    train, validation = artifact.jsonl("train.jsonl"), artifact.jsonl("validation.jsonl")
    yield check("preference_dataset", "pairs_are_trainable", problems([*train, *validation])[:10])
    yield check("preference_dataset", "no_leak_into_validation", leaks(train, validation))
    metadata = {
        "dagster/row_count": len(train) + len(validation),
        "train": len(train),
        "validation": len(validation),
        "feedback_unused": dg.MetadataValue.json(dict(artifact.info["feedback_unused"])),
        "examples": records([{key: str(row[key]) for key in ("kind", "chosen", "rejected")} for row in train[:12]]),
        **bars(dict(artifact.info["train"]), "Pairs by kind", "pairs"),
    }
    yield made("preference_dataset", artifact, metadata)


assets: list[dg.AssetsDefinition] = [scrubbed_documents, signatures, evaluation_suites, corpus_snapshot, sft_dataset, preference_dataset]
