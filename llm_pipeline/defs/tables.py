"""What the assets of curation share: the arguments of a daily table, checks that run before a day is published, and plain metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from llm_pipeline.curation.ledger import counts_by_rule, reconcile
from llm_pipeline.defs.partitions import daily
from llm_pipeline.defs.plots import figure
from llm_pipeline.store import Artifact, Home

OWNERS = ["team:data"]
DAILY: dict[str, Any] = {
    "group_name": "curation",
    "partitions_def": daily,
    "backfill_policy": dg.BackfillPolicy.multi_run(1),
    "owners": OWNERS,
}
SNAPSHOT: dict[str, Any] = {"group_name": "curation", "owners": OWNERS}


def blocking(asset: str, name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, blocking=True, description=description)


def contract_spec(table: str) -> dg.AssetCheckSpec:
    """The check that a table keeps its contract in data/policies/contracts.yaml."""
    return blocking(
        table, f"{table}_contract", f"Great Expectations suite `{table}` of data/policies/contracts.yaml, run before publishing"
    )


def reconciliation_spec(table: str) -> dg.AssetCheckSpec:
    return blocking(table, f"{table}_reconcile", "Received = kept + removed + quarantined, exactly")


def check(asset: str, name: str, problems: Sequence[str] | Mapping[str, int], **metadata: Any) -> dg.AssetCheckResult:
    """A result that passes when there are no problems; they are shown in its metadata."""
    shown = {"problems": dg.MetadataValue.json(problems), **metadata}
    return dg.AssetCheckResult(passed=not problems, asset_key=asset, check_name=name, metadata=shown)


def check_contract(home: Home, table: str, day: str, rows: pa.Table) -> dg.AssetCheckResult:
    """Run the contract on rows that are not published yet, and render its page."""
    from llm_pipeline.curation.contract_page import write_page
    from llm_pipeline.curation.contracts import validate

    result = validate(table, day, rows)
    broken = [f"{outcome.type}({outcome.column}): {outcome.failed} rows" for outcome in result.outcomes if not outcome.success]
    facts = {"rows": result.rows, "expectations": len(result.outcomes)}
    return check(table, f"{table}_contract", broken, page=dg.MetadataValue.path(str(write_page(result, home.reports))), **facts)


def check_reconciles(table: str, received: int, kept: int, ledger: pa.Table) -> dg.AssetCheckResult:
    found = reconcile(received, kept, ledger)
    return check(table, f"{table}_reconcile", [] if found.exact else [str(found)], balance=str(found))


def records(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """A table that the UI can sort and filter."""
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows]) if rows else dg.MetadataValue.text("none")


def bars(counts: Mapping[str, int], title: str, label: str, colour: str | Sequence[str] = "#5f87b0") -> Mapping[str, dg.MetadataValue[Any]]:
    """A horizontal bar chart, the first bar on top; nothing when there is nothing to show."""
    if not counts:
        return {}
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6, 0.6 + 0.27 * len(counts)))
    axes = fig.subplots()
    axes.barh(list(counts), list(counts.values()), color=colour)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel(label)
    return {"plot": figure(fig)}


def rules(ledger: pa.Table, title: str) -> Mapping[str, dg.MetadataValue[Any]]:
    """The ledger by rule, as a table and as bars."""
    counts = counts_by_rule(ledger)
    colours = {"removed": "#b0503c", "quarantined": "#8a5fb0", "changed": "#5f87b0"}
    named = {f"{row['rule']} ({row['action']})": row["count"] for row in counts}
    return {"rules": records(counts), **bars(named, title, "documents", [colours[row["action"]] for row in counts])}


def made(asset: str, artifact: Artifact, metadata: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    common: dict[str, Any] = {"reused": artifact.reused, "id": artifact.id, "path": dg.MetadataValue.path(str(artifact.path))}
    return dg.MaterializeResult(asset_key=asset, metadata={**common, **metadata}, data_version=dg.DataVersion(artifact.id))
