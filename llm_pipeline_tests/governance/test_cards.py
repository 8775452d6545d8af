from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.governance.cards import Card, Section, flatten
from llm_pipeline.governance.data_card import build_data_card
from llm_pipeline.governance.model_card import build_model_card
from llm_pipeline.store import Home


def snapshot(home: Home) -> None:
    documents = pa.table(
        {
            "source": ["bank", "bank", "docs"],
            "licence": ["CC-BY-4.0", "CC-BY-4.0", "PSF-2.0"],
            "language": ["en", "de", None],
            "kind": ["article", "article", "doc"],
            "day": ["2026-01-01"] * 3,
        }
    )
    clusters = pa.table({"day": ["2026-01-01"] * 5, "reason": ["kept"] * 3 + ["near_duplicate", "contaminated"]})

    def make(folder: Path) -> dict[str, Any]:
        pq.write_table(documents, folder / "documents.parquet")
        pq.write_table(clusters, folder / "clusters.parquet")
        return {}

    home.artifacts.build("corpus_snapshot", {"until": "2026-01-01"}, make)


def test_the_data_card_counts_sources_removals_and_what_was_left_out(home: Home) -> None:
    snapshot(home)
    ledger = pa.table({"stage": ["filter"] * 3, "rule": ["toxic", "toxic", "short"], "action": ["removed"] * 3})
    home.lake.replace("filtered_ledger", "2026-01-01", ledger)
    card = build_data_card(home)
    text = card.file("data_card.md").read_text("utf-8")
    assert "| bank | CC-BY-4.0 | article | 2 |" in text
    assert "| filter | toxic | removed | 2 |" in text
    assert "| near_duplicate | 1 |" in text
    assert "| docs | PSF-2.0 | doc | 1 |" in text
    assert card.info == {"documents": 3, "days": 1, "sources": 2, "left_out": 2}
    assert "<td>CC-BY-4.0</td>" in card.file("data_card.html").read_text("utf-8")
    assert build_data_card(home).reused


def test_a_changed_ledger_makes_a_new_data_card(home: Home) -> None:
    snapshot(home)
    first = build_data_card(home)
    home.lake.replace("filtered_ledger", "2026-01-01", pa.table({"stage": ["f"], "rule": ["x"], "action": ["removed"]}))
    assert build_data_card(home).id != first.id


def test_the_model_card_names_recipe_figures_and_decision(home: Home) -> None:
    def report(folder: Path) -> dict[str, Any]:
        (folder / "report.json").write_text(json.dumps({"suites": {"facts": {"exact_match": 0.91, "interval": [[0.8, 0.9]]}}}))
        return {}

    def decision(folder: Path) -> dict[str, Any]:
        (folder / "decision.json").write_text(json.dumps({"verdict": "promote", "champion": None, "reasons": ["better | safer"]}))
        return {}

    home.artifacts.build("candidate_model", {"recipe": {"seed": 7, "rank": 16}}, lambda folder: {"steps": 300})
    bare = build_model_card(home).file("model_card.md").read_text("utf-8")
    assert "It has not been evaluated." in bare
    home.artifacts.build("eval_report", {}, report)
    home.artifacts.build("promotion_decision", {}, decision)
    text = build_model_card(home).file("model_card.md").read_text("utf-8")
    for line in (
        "| recipe.seed | 7 |",
        "| info.steps | 300 |",
        "| suites.facts.exact_match | 0.91 |",
        "| verdict | promote |",
        "better \\| safer",
    ):
        assert line in text


def test_html_is_escaped() -> None:
    page = Card("<script>", [Section("a", ["<b>"], [{"x": "<i>", "n": 1200}])]).html()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert '<td class="number">1,200</td>' in page


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": [{"x": 1}]}) == {"a.b": 1, "a.c": [1, 2], "d": "1 entries"}
