"""Governance: what the data and the model are, in words for people outside, and a log of every decision."""

from typing import Any

import dagster as dg

from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.errors import ContractError
from llm_pipeline.governance.audit import AuditLog, record_decisions
from llm_pipeline.governance.data_card import build_data_card
from llm_pipeline.governance.model_card import build_model_card
from llm_pipeline.store import Artifact

COMMON: dict[str, Any] = {"group_name": "governance", "owners": ["team:governance"], "tags": {"stage": "governance"}}


@dg.asset(deps=["corpus_snapshot"], kinds={"markdown", "html"}, **COMMON)
def data_card(home: HomeResource) -> dg.MaterializeResult[Any]:
    """Sources, licences, languages and removals by rule of the newest corpus snapshot."""
    return _card(build_data_card(home.open()), "data_card")


@dg.asset(deps=["candidate_model", "eval_report", "promotion_decision"], kinds={"markdown", "html"}, **COMMON)
def model_card(home: HomeResource) -> dg.MaterializeResult[Any]:
    """Recipe, data versions, measured figures and limits of the newest candidate model."""
    return _card(build_model_card(home.open()), "model_card")


@dg.asset(deps=["promotion_decision", "release", "deployed_endpoint"], kinds={"json"}, **COMMON)
def audit_log(home: HomeResource) -> dg.MaterializeResult[Any]:
    """Every promotion decision, release and rollout, in an append-only log whose lines hold the hash of the line before."""
    place = home.open()
    added, entries = record_decisions(place)
    recent = [{"number": e["number"], "at": e["at"], "event": e["event"], "subject": e["subject"]} for e in entries[-20:]]
    head = AuditLog.of(place).head
    return dg.MaterializeResult(
        metadata={"entries": len(entries), "added": added, "head": head, "recent": dg.MetadataValue.json(recent)},
        data_version=dg.DataVersion(head),
    )


@dg.asset_check(asset="audit_log", description="Every line follows from the line before: none was edited, removed or torn.", blocking=True)
def audit_chain_intact(home: HomeResource) -> dg.AssetCheckResult:
    try:
        entries = AuditLog.of(home.open()).entries()
    except ContractError as error:
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error)})
    return dg.AssetCheckResult(passed=True, metadata={"entries": len(entries)})


def _card(card: Artifact, name: str) -> dg.MaterializeResult[Any]:
    text = card.file(f"{name}.md").read_text("utf-8")
    return dg.MaterializeResult(
        metadata={
            "card": dg.MetadataValue.md(text),
            "html": dg.MetadataValue.path(card.file(f"{name}.html")),
            "reused": card.reused,
            **{key: value for key, value in card.info.items() if isinstance(value, int | str)},
        },
        data_version=dg.DataVersion(card.id),
    )


defs = dg.Definitions(assets=[data_card, model_card, audit_log], asset_checks=[audit_chain_intact])
