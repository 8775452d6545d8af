"""Real MiniLM vectors in a real LanceDB: generations, their swap, searching, and odd questions."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.support.world import build_world
from llm_pipeline.errors import ContractError, InputError, MissingError
from llm_pipeline.paths import PROJECT
from llm_pipeline.retrieval import generation as generation_module
from llm_pipeline.retrieval import index as index_module
from llm_pipeline.retrieval import passages as passages_module
from llm_pipeline.retrieval.chunking import chunk_table
from llm_pipeline.retrieval.embedding import Embedder
from llm_pipeline.retrieval.embedding_cache import EmbeddingCache
from llm_pipeline.retrieval.generation import verify, verify_embedder, write_generation
from llm_pipeline.retrieval.index import build_index, newest, without_leaks
from llm_pipeline.retrieval.metrics import evaluate
from llm_pipeline.retrieval.search import Searcher, first_of_each_text, fuse, starts
from llm_pipeline.store import Artifacts, Home, write_jsonl

DAY, NEXT = "2026-01-01", "2026-01-02"


def articles(seed: int = 1, products: int = 25) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two documents for each product, and one question with the document that answers it."""
    r = random.Random(seed)
    world = build_world([f"Brand{i} Account" for i in range(products)], 4, r)
    documents: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    for product in world.products:
        facts = world.about(product)
        for half in (0, 1):
            mine = facts[2 * half : 2 * half + 2]
            uri = f"kb://{product.lower().replace(' ', '-')}/{half}"
            text = " ".join(fact.state(r) for fact in mine)
            row = {"id": uri, "uri": uri, "external_id": f"x{len(documents)}", "kind": "article", "source": "kb", "title": product}
            documents.append(row | {"text": text})
            questions.append(
                {"id": uri, "question": mine[0].ask(r), "answer": mine[0].value, "relevant": [uri if half else row["external_id"]]}
            )
    return documents, questions


def put(home: Home, day: str, documents: list[dict[str, Any]]) -> None:
    home.lake.replace("chunks", day, chunk_table(pa.Table.from_pylist(documents)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> tuple[Home, Searcher]:
    home = Home(tmp_path_factory.mktemp("home"))
    put(home, DAY, articles()[0])
    return home, Searcher(build_index(home, embedder=embedder).path, embedder)


def test_finds_the_article_that_answers(built: tuple[Home, Searcher]) -> None:
    result = evaluate(built[1], articles()[1])
    assert result["n"] == 50
    assert result["recall@5"] >= 0.9
    assert result["recall@1"] <= result["recall@5"] <= result["recall@10"]


def test_vector_search_is_exact(built: tuple[Home, Searcher]) -> None:
    _, searcher = built
    matrix = np.array(searcher._table.to_table(["vector"])["vector"].to_pylist())
    query = searcher.embedder("What is the monthly fee of Brand3 Account?")
    assert searcher.nearest(query, 5) == np.argsort(-(matrix @ query))[:5].tolist()


@pytest.mark.parametrize(
    "odd", ["", "   ", "???", '"', "a' OR 1=1 --", "AND OR NOT (", "title:x^2~ *", "\x00", "\ud800 fee", "-fee +x", "日本語", "the"]
)
@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_odd_questions_are_only_words(built: tuple[Home, Searcher], odd: str, mode: Any) -> None:
    assert len(built[1].search(odd, 3, mode)) <= 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_no_text_breaks_the_full_text_search(built: tuple[Home, Searcher], text: str) -> None:
    found = built[1].search(text, 4, "text")
    assert len({p.text for p in found}) == len(found) <= 4


def test_very_long_question_and_unknown_mode(built: tuple[Home, Searcher]) -> None:
    assert built[1].search("fee " * 10_000, 2)
    with pytest.raises(InputError, match="did you mean 'hybrid'"):
        built[1].search("fee", mode="hybird")  # type: ignore[arg-type]


def test_threads_get_what_one_thread_gets(built: tuple[Home, Searcher]) -> None:
    questions = [row["question"] for row in articles()[1]][:24]
    alone = [built[1].search(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(built[1].search, questions)) == alone


def test_a_newer_revision_replaces_and_the_old_reader_goes_on(tmp_path: Path, embedder: Embedder, built: tuple[Home, Searcher]) -> None:
    home = Home(tmp_path)
    documents, _ = articles(products=3)
    put(home, DAY, documents)
    first = build_index(home, embedder=embedder)
    reader = Searcher(first.path, embedder)
    question = "What is the colour of the moon for Brand0 Account?"
    before = reader.search(question)
    put(home, NEXT, [documents[0] | {"text": "The colour of the moon for the Brand0 Account is green."}])
    second = build_index(home, embedder=embedder)
    assert second.id != first.id
    assert second.info["embedded"] == 1
    assert Artifacts(home.indexes).named("vector_index", "live").id == second.id
    newer = Searcher(second.path, embedder)
    assert newer.count == reader.count == 6
    assert "green" in newer.search(question)[0].text
    assert reader.search(question) == before
    again = build_index(home, embedder=embedder)
    assert (again.id, again.reused) == (second.id, True)


def test_leaked_questions_are_left_out(tmp_path: Path) -> None:
    home = Home(tmp_path)
    question = "Please tell me what the monthly fee of the Item is?"
    put(
        home,
        DAY,
        [
            {"id": uri, "uri": uri, "external_id": None, "kind": "note", "source": "s", "title": "", "text": text}
            for uri, text in {
                "faq": f"{question} It is $5.",
                "note": f"{question} No idea.",
                "other": "The monthly fee of the Item is $5.",
            }.items()
        ],
    )
    chunks = home.lake.read("chunks")

    def suites(relevant: list[str], kind: str = "fact") -> Any:
        row = {"id": "1", "question": question, "answer": "$5", "relevant": relevant, "kind": kind}

        def make(folder: Path) -> dict[str, Any]:
            write_jsonl(folder / "s.jsonl", [row])
            return {}

        return home.artifacts.build("evaluation_suites", row, make)

    assert without_leaks(chunks, suites(["faq"]))["uri"].to_pylist() == ["faq", "other"]
    assert without_leaks(chunks, suites([], "refusal"))["uri"].to_pylist() == ["other"]
    assert without_leaks(chunks, suites([])).num_rows == without_leaks(chunks, None).num_rows == 3


def test_a_generation_that_fails_verification_never_goes_live(tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    put(home, DAY, articles(products=3)[0])
    first = build_index(home, embedder=embedder)
    put(home, NEXT, articles(seed=2, products=4)[0])

    def forgets_one(folder: Path, rows: pa.Table, texts: Any, vectors: Any, tokens: Any, *rest: Any) -> None:
        write_generation(folder, rows.slice(1), texts[1:], vectors[1:], tokens[1:], *rest)

    monkeypatch.setattr(index_module, "write_generation", forgets_one)
    with pytest.raises(ContractError, match="7 chunks, expected 8"):
        build_index(home, embedder=embedder)
    assert Artifacts(home.indexes).named("vector_index", "live").id == first.id
    assert len(list((home.indexes / "vector_index").glob("*/manifest.json"))) == 1


def test_wrong_vectors_are_refused(tmp_path: Path, embedder: Embedder, built: tuple[Home, Searcher]) -> None:
    rows = newest(built[0].lake.read("chunks"))
    vectors = np.random.default_rng(0).normal(size=(rows.num_rows, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write(tmp_path, rows, vectors)
    with pytest.raises(ContractError, match="vector recall@10"):
        verify(tmp_path, rows["id"].to_pylist(), vectors[::-1])


def write(folder: Path, rows: pa.Table, vectors: Any) -> None:
    write_generation(folder, rows, rows["text"].to_pylist(), vectors, None, np.zeros(1, np.int64), Embedder().space)


def test_the_approximate_index_finds_what_brute_force_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from several batches, and where only some may be found."""
    monkeypatch.setattr(generation_module, "APPROXIMATE_FROM", 2_000)
    monkeypatch.setattr(passages_module, "BATCH", 700)
    monkeypatch.setattr(generation_module, "BATCH", 700)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 384))
    vectors = (centres[rng.integers(0, 60, 3_000)] + 0.6 * rng.normal(size=(3_000, 384))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text = [f"text {i}" for i in range(3_000)]
    rows = pa.table(dict.fromkeys(("id", "document_id", "uri", "external_id", "title", "text"), text) | {"source": ["a", "b", "c"] * 1_000})
    write(tmp_path, rows, vectors)
    assert verify(tmp_path, text, vectors)["vector_recall"] >= 0.98
    searcher = Searcher(tmp_path, reranker=None)
    assert [row["id"] for row in searcher.passages.rows([2_999, 0, 700, 699])] == [text[i] for i in (2_999, 0, 700, 699)]
    best = np.argsort(-(vectors[1::3] @ vectors[5]))[:5] * 3 + 1
    assert searcher.nearest(vectors[5], 5, "source = 'b'") == best.tolist()
    assert list(searcher.matching("text 2999", 1)) == [2_999]


def test_a_row_is_told_by_its_place_in_a_table_of_several_files(tmp_path: Path) -> None:
    for start, mode in ((0, "create"), (3, "append"), (5, "append")):
        lance.write_dataset(pa.table({"n": range(start, start + 3 - start % 2)}), tmp_path / "t", mode=mode)
    table = lance.dataset(tmp_path / "t")
    places = table.to_table(with_row_id=True).to_pylist()
    assert [row["n"] for row in places] == [starts(table)[row["_rowid"] >> 32] + (row["_rowid"] & 0xFFFFFFFF) for row in places]
    assert len({row["_rowid"] >> 32 for row in places}) == 3


def test_what_is_gone_is_not_found(tmp_path: Path, embedder: Embedder) -> None:
    home = Home(tmp_path)
    documents, _ = articles(products=3)
    put(home, DAY, documents)
    build_index(home, embedder=embedder)
    put(home, DAY, documents[1:])
    fewer = build_index(home, embedder=embedder)
    assert (fewer.info["chunks"], fewer.info["embedded"]) == (5, 0)
    found = Searcher(fewer.path, embedder).search(documents[0]["text"], 10)
    assert documents[0]["uri"] not in {passage.uri for passage in found}


def test_a_generation_is_asked_only_with_its_own_embedder(built: tuple[Home, Searcher], embedder: Embedder) -> None:
    path = built[1].path
    with pytest.raises(ContractError, match=r"made with the embedder .*'max_tokens': 256.*asked with .*'max_tokens': 64"):
        Searcher(path, Embedder(max_tokens=64))
    assert Searcher(path).embedder.space == embedder.space


def test_vectors_of_another_model_are_not_mixed_in(embedder: Embedder) -> None:
    texts = ["The fee is $5.", "The limit is 3 a day.", "Cards arrive in a week."]
    vectors = embedder.embed(texts)
    verify_embedder(embedder, texts, vectors)
    with pytest.raises(ContractError, match=r"row 1: .*cosine"):
        verify_embedder(embedder, texts, np.stack([vectors[0], np.roll(vectors[1], 1), vectors[2]]))


def test_errors_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no days of table 'chunks'"):
        build_index(Home(tmp_path))
    with pytest.raises(MissingError, match="not an index generation"):
        Searcher(tmp_path)


def test_embedding_cache_asks_for_each_text_once(tmp_path: Path, embedder: Embedder) -> None:
    cache = EmbeddingCache(tmp_path, embedder)
    first = cache.embed(["one", "two", "one"])
    assert cache.made == 2
    assert np.array_equal(first[0], first[2])
    again = EmbeddingCache(tmp_path, embedder)
    assert np.array_equal(again.embed(["two", "three", "one"])[[2, 0]], first[:2])
    assert again.made == 1
    assert again.embed([]).shape == (0, 384)


def test_vectors_are_unit_and_do_not_depend_on_their_batch(embedder: Embedder) -> None:
    texts = ["a fee", "the monthly fee of an account " * 12, "short", "who are you?"]
    together = embedder.embed(texts)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert float(embedder.embed([text])[0] @ vector) > 0.995


def test_fusion_by_hand() -> None:
    found = fuse([[0, 1, 2], [1, 3]], constant=10)
    assert list(found) == [1, 0, 3, 2]
    assert list(found.values()) == pytest.approx([1 / 12 + 1 / 11, 1 / 11, 1 / 12, 1 / 13])
    assert list(fuse([[7], [3]])) == [3, 7]
    assert [r["id"] for r in first_of_each_text([{"id": "a", "text": "x y"}, {"id": "b", "text": "x  y "}])] == ["a"]


@pytest.mark.slow
def test_english_questions_of_xquad(tmp_path: Path, embedder: Embedder) -> None:
    """A cut of a public set: 60 paragraphs in three languages, the English questions about them."""
    folder = PROJECT.parent / "shared" / "data" / "xquad"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: put xquad's en/de/es passages and questions there")
    names, documents = {f"p{i}" for i in range(60)}, []
    for language in ("en", "de", "es"):
        for row in map(json.loads, (folder / f"{language}_passages.jsonl").read_text("utf-8").splitlines()):
            if row["id"] in names:
                uri = f"{language}#{row['id']}"
                documents.append(
                    {"id": uri, "uri": uri, "external_id": row["id"], "kind": "doc", "source": "x", "title": "", "text": row["text"]}
                )
    questions = [json.loads(line) for line in (folder / "en_questions.jsonl").read_text("utf-8").splitlines()]
    rows = [row | {"relevant": [f"en#{row['passage_id']}"]} for row in questions if row["passage_id"] in names][:200]
    home = Home(tmp_path)
    put(home, DAY, documents)
    result = evaluate(Searcher(build_index(home, embedder=embedder).path, embedder), rows)
    assert result["n"] == 200
    assert result["recall@5"] >= 0.9
