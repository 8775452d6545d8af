"""Curation as assets: raw sources, documents, and what survives the filters, day by day."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from llm_pipeline.curation.contract_page import write_page
from llm_pipeline.curation.ledger import counts_by_rule, reconcile
from llm_pipeline.curation.sources import Source, load_sources
from llm_pipeline.defs import curation_datasets
from llm_pipeline.defs.partitions import daily
from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource, home_folder
from llm_pipeline.errors import PipelineError
from llm_pipeline.paths import DATA
from llm_pipeline.store import Home

OWNERS = ["team:data"]
SOURCES = load_sources(DATA / "sources.yaml", home_folder() / "sources.yaml")
RAW_KEYS = [dg.AssetKey(["raw", source.name]) for source in SOURCES]
Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]


def contract_spec(table: str) -> dg.AssetCheckSpec:
    """The blocking check that a table keeps its contract in data/policies/contracts.yaml."""
    description = f"Great Expectations suite `{table}` of data/policies/contracts.yaml, run before the rows are published"
    return dg.AssetCheckSpec(f"{table}_contract", asset=table, blocking=True, description=description)


def reconciliation_spec(table: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        f"{table}_reconcile", asset=table, blocking=True, description="Received = kept + removed + quarantined, exactly"
    )


def check_contract(home: Home, table: str, day: str, rows: pa.Table) -> dg.AssetCheckResult:
    """Run the contract on rows that are not published yet, and render its page."""
    from llm_pipeline.curation.contracts import validate

    result = validate(table, day, rows)
    page = write_page(result, home.reports)
    broken = [f"{outcome.type}({outcome.column}): {outcome.failed} rows" for outcome in result.outcomes if not outcome.success]
    metadata: dict[str, Any] = {
        "rows": result.rows,
        "expectations": len(result.outcomes),
        "broken": broken,
        "page": dg.MetadataValue.path(str(page)),
    }
    return dg.AssetCheckResult(passed=result.success, asset_key=table, check_name=f"{table}_contract", metadata=metadata)


def check_reconciles(table: str, received: int, kept: int, ledger: pa.Table) -> dg.AssetCheckResult:
    found = reconcile(received, kept, ledger)
    return dg.AssetCheckResult(
        passed=found.exact, asset_key=table, check_name=f"{table}_reconcile", description=str(found), metadata={"balance": str(found)}
    )


def publish(
    home: Home,
    day: str,
    table: str,
    rows: pa.Table,
    ledger_name: str,
    ledger: pa.Table,
    received: int,
    extra: Mapping[str, Any] | None = None,
) -> Results:
    """Check a day of `table` and its ledger, publish both when the checks hold, and describe them; a broken day publishes nothing."""
    checks = [check_contract(home, table, day, rows), check_reconciles(table, received, rows.num_rows, ledger)]
    yield from checks
    if broken := [check.check_name for check in checks if not check.passed]:
        raise dg.Failure(f"{table}, {day}: {', '.join(map(str, broken))} failed; nothing was published", allow_retries=False)
    home.lake.replace(ledger_name, day, ledger)
    version = home.lake.replace(table, day, rows)
    metadata = {
        "dagster/row_count": rows.num_rows,
        "received": received,
        "removed_or_quarantined": received - rows.num_rows,
        "rules": rules_table(ledger),
        "balance": str(reconcile(received, rows.num_rows, ledger)),
        "dagster/uri": str(home.lake.root / table / f"{day}.lance"),
        **(extra or {}),
    }
    yield dg.MaterializeResult(asset_key=table, metadata=metadata, data_version=dg.DataVersion(version))


def rules_table(ledger: pa.Table) -> dg.MetadataValue[Any]:
    records = [dg.TableRecord({**row}) for row in counts_by_rule(ledger)]
    columns = [dg.TableColumn("action"), dg.TableColumn("rule"), dg.TableColumn("count", "int")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def rules_plot(ledger: pa.Table, title: str) -> Mapping[str, dg.MetadataValue[Any]]:
    """Horizontal bars of the rules; nothing when the ledger is empty."""
    counts = counts_by_rule(ledger)[::-1]
    if not counts:
        return {}
    from matplotlib.figure import Figure

    colours = {"removed": "#b0503c", "quarantined": "#8a5fb0", "changed": "#5f87b0"}
    fig = Figure(figsize=(6, 0.5 + 0.28 * len(counts)))
    axes = fig.subplots()
    axes.barh(
        [f"{row['rule']} ({row['action']})" for row in counts],
        [row["count"] for row in counts],
        color=[colours[row["action"]] for row in counts],
    )
    axes.set_title(title)
    axes.set_xlabel("documents")
    return {"reasons": figure(fig)}


def mix(rows: pa.Table, column: str) -> dg.MetadataValue[Any]:
    """How often each value of a column occurs."""
    return dg.MetadataValue.json(dict(Counter(str(value) for value in rows[column].to_pylist()).most_common(12)))


def titles(rows: pa.Table, n: int = 5) -> dg.MetadataValue[Any]:
    """A few titles of articles and documentation spread over the day; never text, nor titles of conversations, which may be private."""
    shown = [title for title, kind in zip(rows["title"].to_pylist(), rows["kind"].to_pylist(), strict=True) if kind in ("article", "web")]
    return dg.MetadataValue.json(shown[:: max(1, len(shown) // n)][:n])


def policy_version() -> str:
    from llm_pipeline.curation.quality import POLICY
    from llm_pipeline.store import file_hash

    return file_hash(POLICY)


def _tag(value: str) -> str:
    """The nearest value that Dagster allows for a tag: letters, digits, `_`, `-`, `.`, at most 63 of them."""
    return re.sub(r"[^\w.-]+", "-", value, flags=re.ASCII)[:63]


def raw_asset(source: Source) -> dg.AssetsDefinition:
    """The asset that lands one source; one per entry of data/sources.yaml and of the home's own sources.yaml."""

    @dg.asset(
        key=dg.AssetKey(["raw", source.name]),
        group_name="curation",
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        retry_policy=dg.RetryPolicy(max_retries=1, delay=1),
        description=f"{source.description or source.uri}. Raw rows as they arrived, with provenance (licence: {source.licence}).",
        owners=OWNERS,
        kinds={"lance", "python"},
        tags={"licence": _tag(source.licence), "policy": source.policy},
    )
    def raw(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
        from llm_pipeline.curation.readers import read_source

        place, day = home.open(), context.partition_key
        try:
            rows = read_source(source, place, day)
        except PipelineError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        version = place.lake.replace(f"raw_{source.name}", day, rows)
        problems = Counter(str(problem).split(":")[0] for problem in rows["problem"].drop_null().to_pylist())
        metadata = {
            "dagster/row_count": rows.num_rows,
            "damaged": sum(problems.values()),
            "problems": dg.MetadataValue.json(dict(problems)),
            "bytes": sum(len(content or b"") for content in rows["content"].to_pylist()),
            "media_types": mix(rows, "media_type"),
            **{name: getattr(source, name) for name in ("licence", "owner", "consent", "policy")},
        }
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))

    return raw


def documents_asset(sources: Sequence[Source]) -> dg.AssetsDefinition:
    """The table of all `sources`, which are also its dependencies."""

    @dg.asset(
        group_name="curation",
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        owners=OWNERS,
        kinds={"lance", "python"},
        tags={"stage": "normalise"},
        deps=[dg.AssetKey(["raw", source.name]) for source in sources],
        check_specs=[contract_spec("documents"), reconciliation_spec("documents")],
    )
    def documents(context: dg.AssetExecutionContext, home: HomeResource) -> Results:
        """All sources of a day as one table of documents: encodings repaired, page furniture stripped, language identified."""
        from llm_pipeline.curation.normalise import normalise
        from llm_pipeline.curation.quality import load_policy

        place, day = home.open(), context.partition_key
        raw = pa.concat_tables([place.lake.read(f"raw_{source.name}", [day]) for source in sources])
        strict = [source.name for source in sources if source.policy == "strict"]
        try:
            rows, ledger = normalise(raw, day, strict, load_policy().poison)
        except PipelineError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        extra = {
            "languages": mix(rows, "language"),
            "kinds": mix(rows, "kind"),
            "sources": mix(rows, "source"),
            "titles": titles(rows),
            **rules_plot(ledger, f"Changes and quarantine, {day}"),
        }
        yield from publish(place, day, "documents", rows, "documents_ledger", ledger, raw.num_rows, extra)

    return documents


documents = documents_asset(SOURCES)


@dg.asset(
    group_name="curation",
    partitions_def=daily,
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    owners=OWNERS,
    kinds={"lance", "daft"},
    tags={"stage": "filter"},
    deps=["documents"],
    code_version=policy_version(),
    check_specs=[contract_spec("filtered_documents"), reconciliation_spec("filtered_documents")],
)
def filtered_documents(context: dg.AssetExecutionContext, home: HomeResource) -> Results:
    """Documents worth learning from: poison quarantined, other languages, poor quality and toxicity removed, scores kept."""
    from llm_pipeline.curation.quality import filter_documents, load_policy

    place, day = home.open(), context.partition_key
    received = place.lake.read("documents", [day])
    allowed = {source.name: source.languages for source in SOURCES}
    rows, ledger = filter_documents(received, day, load_policy(), allowed)
    extra = {
        "languages": mix(rows, "language"),
        "kinds": mix(rows, "kind"),
        "titles": titles(rows),
        **rules_plot(ledger, f"Removed and quarantined, {day}"),
    }
    yield from publish(place, day, "filtered_documents", rows, "filtered_ledger", ledger, received.num_rows, extra)


assets: list[dg.AssetsDefinition] = [*(raw_asset(source) for source in SOURCES), documents, filtered_documents, *curation_datasets.assets]
asset_checks: list[dg.AssetChecksDefinition] = []

defs = dg.Definitions(assets=assets, asset_checks=asset_checks)
