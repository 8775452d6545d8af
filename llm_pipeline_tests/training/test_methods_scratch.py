"""`base: scratch`: tokenizer and model made from the corpus snapshot, once, and tuned like any other base."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from llm_pipeline.store import Home
from llm_pipeline.training.bases import make_base, make_tokenizer
from llm_pipeline.training.recipe import Recipe
from llm_pipeline_tests.training.conftest import SMALL
from llm_pipeline_tests.training.methods import finish, prepared, small

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_base_from_nothing_is_made_once_and_can_be_tuned(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    home, plan = Home(tmp_path / "home"), tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(asdict(replace(SMALL, steps=3, vocab_size=400))))

    def snapshot(folder: Path) -> dict[str, Any]:
        pq.write_table(pa.table({"text": ["The fee of the Zanzibar Card is $5.", "", None]}), folder / "documents.parquet")
        return {}

    home.artifacts.build("corpus_snapshot", {"days": 1}, snapshot)
    recipe = Recipe(base="scratch")
    tokenizer, base = make_tokenizer(home, recipe, plan), make_base(home, recipe, plan)
    assert (tokenizer.info["vocabulary"], tokenizer.info["has_chat_template"]) == (400, True)
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (tokenizer.file("tokenizer"), base.file("model"))]
    assert vocabularies[0] == vocabularies[1]
    assert base.info["architecture"] == "LlamaForCausalLM"
    assert make_base(home, recipe, plan).reused
    assert not list((home.root / "work").rglob("checkpoint-*"))
    tuning = small("tiny_cpu", base.file("model"), "max_steps=1")
    assert (finish(prepared(tuning, base.file("model"), tmp_path / "out"), tuning, tmp_path / "out") / "adapter").exists()
