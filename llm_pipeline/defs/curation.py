"""Curation as assets: raw sources, documents, and what survives the filters, day by day."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from llm_pipeline.curation.ledger import reconcile
from llm_pipeline.curation.sources import Source, load_sources
from llm_pipeline.curation.tally import frequency
from llm_pipeline.defs import curation_datasets
from llm_pipeline.defs.resources import HomeResource, home_folder
from llm_pipeline.defs.tables import DAILY, check_contract, check_reconciles, contract_spec, reconciliation_spec, rules
from llm_pipeline.errors import PipelineError
from llm_pipeline.paths import DATA
from llm_pipeline.store import Home

SOURCES = load_sources(DATA / "sources.yaml", home_folder() / "sources.yaml")
RAW_KEYS = [dg.AssetKey(["raw", source.name]) for source in SOURCES]
Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]


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
        **rules(ledger, f"Removed, quarantined and changed, {day}"),
        "balance": str(reconcile(received, rows.num_rows, ledger)),
        "dagster/uri": str(home.lake.root / table / f"{day}.lance"),
        **(extra or {}),
    }
    yield dg.MaterializeResult(asset_key=table, metadata=metadata, data_version=dg.DataVersion(version))


def mix(rows: pa.Table, column: str) -> dg.MetadataValue[Any]:
    """How often each value of a column occurs."""
    return dg.MetadataValue.json(dict(frequency(rows, column).most_common(12)))


def titles(rows: pa.Table, n: int = 5) -> dg.MetadataValue[Any]:
    """A few titles of articles and documentation spread over the day; never text, nor titles of conversations, which may be private."""
    shown = rows["title"].filter(pc.is_in(rows["kind"], pa.array(["article", "web"])))
    return dg.MetadataValue.json([title.as_py() for title in shown[:: max(1, len(shown) // n)][:n]])


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
        **DAILY,
        retry_policy=dg.RetryPolicy(max_retries=1, delay=1),
        description=f"{source.description or source.uri}. Raw rows as they arrived, with provenance (licence: {source.licence}).",
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
        codes = pc.replace_substring_regex(rows["problem"], "(?s):.*", "")
        problems = frequency(pa.table({"problem": codes}), "problem")
        metadata = {
            "dagster/row_count": rows.num_rows,
            "damaged": sum(problems.values()),
            "problems": dg.MetadataValue.json(dict(problems)),
            "bytes": pc.sum(pc.binary_length(rows["content"])).as_py() or 0,
            "media_types": mix(rows, "media_type"),
            **{name: getattr(source, name) for name in ("licence", "owner", "consent", "policy")},
        }
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))

    return raw


def documents_asset(sources: Sequence[Source]) -> dg.AssetsDefinition:
    """The table of all `sources`, which are also its dependencies."""

    @dg.asset(
        **DAILY,
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
        landed = [place.lake.read(f"raw_{source.name}", [day]) for source in sources]
        raw = pa.concat_tables(landed, promote_options="default")
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
        }
        yield from publish(place, day, "documents", rows, "documents_ledger", ledger, raw.num_rows, extra)

    return documents


documents = documents_asset(SOURCES)


@dg.asset(
    **DAILY,
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
    }
    yield from publish(place, day, "filtered_documents", rows, "filtered_ledger", ledger, received.num_rows, extra)


assets: list[dg.AssetsDefinition] = [*(raw_asset(source) for source in SOURCES), documents, filtered_documents, *curation_datasets.assets]
asset_checks: list[dg.AssetChecksDefinition] = []

defs = dg.Definitions(assets=assets, asset_checks=asset_checks)
