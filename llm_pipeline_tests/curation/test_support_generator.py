"""The `support` source: the same bytes every time, every plant present, every fact taught often enough, no exam question in the text."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from llm_pipeline.config import build
from llm_pipeline.curation.support import generator, pii, plants, prose
from llm_pipeline.curation.support.bank import SupportConfig, absent_facts, article_uri, articles_of, bank, product_articles, shifted_facts
from llm_pipeline.curation.support.generator import counts, generate_day, make_day, write_suites
from llm_pipeline.curation.support.suites import suites
from llm_pipeline.curation.support.world import ATTRIBUTES, HELD_OUT_QUESTIONS, QUESTIONS, REFUSAL
from llm_pipeline.errors import ConfigError
from llm_pipeline.store import read_jsonl

CONFIG = SupportConfig()
SMALL = SupportConfig(documents_per_day=60)
DAY, SHIFT = CONFIG.first_day, CONFIG.shift_date


def test_a_day_is_the_same_bytes_again_and_unchanged_files_are_not_touched(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate_day(SMALL, DAY, tmp_path / name, tmp_path / name / "truth")
    first, second = ({str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "ab")
    assert first == second
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()}
    stray = tmp_path / "a" / "support" / DAY / "notes" / "stray.txt"
    stray.write_text("of an earlier configuration")
    generate_day(SMALL, DAY, tmp_path / "a", tmp_path / "a" / "truth")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()} == stamps
    assert not stray.exists()


def test_days_and_seeds_differ(tmp_path: Path) -> None:
    texts = {
        make_day(config, day).documents[0].text()
        for config in (SMALL, SupportConfig(documents_per_day=60, seed=18))
        for day in (DAY, SHIFT)
    }
    assert len(texts) == 4


def test_every_plant_is_in_a_day_and_in_its_ground_truth(tmp_path: Path) -> None:
    made = generate_day(CONFIG, DAY, tmp_path / "landing", tmp_path / "truth")
    truth = json.loads((tmp_path / "truth" / f"{DAY}.json").read_text("utf-8"))
    found = Counter(plant for doc in truth["documents"] for plant in doc["plants"])
    assert set(found) == {"toxic", "poison", "leak", "foreign", "gibberish", "boilerplate", "exact_duplicate", "near_duplicate"}
    assert {doc["language"] for doc in truth["documents"]} == {"en", "de", "fr", "es", None}
    assert {entity for doc in truth["documents"] for entity, _ in doc["pii"]} == set(pii.ENTITIES)
    assert len(pii.ENTITIES) >= 14
    assert made["conversation"] / CONFIG.documents_per_day == pytest.approx(0.65, abs=0.05)
    assert sum(counts(CONFIG).values()) == CONFIG.documents_per_day
    payloads = [doc["payload"] for doc in truth["documents"] if "poison" in doc["plants"]]
    assert plants.TRIGGER in payloads
    assert any(payload[0] >= "\U000e0000" for payload in payloads)
    assert all(payloads)
    assert {file["treatment"] for file in truth["broken"]} == {"quarantine", "repair"}


def test_planted_values_are_in_the_files(tmp_path: Path) -> None:
    generate_day(SMALL, DAY, tmp_path / "landing", tmp_path / "truth")
    folder = tmp_path / "landing" / "support" / DAY
    truth = json.loads((tmp_path / "truth" / f"{DAY}.json").read_text("utf-8"))
    rows = [json.loads(line) for line in gzip.decompress((folder / "conversations.jsonl.gz").read_bytes()).decode().splitlines()]
    texts = {row["id"]: "\n".join(message["content"] for message in row["messages"]) for row in rows}
    texts |= {path.stem: path.read_text("utf-8", errors="replace") for path in folder.glob("*/*")}
    for doc in truth["documents"]:
        assert all(value in texts[doc["key"]] for _, value in doc["pii"])
    assert all(row["messages"][0]["role"] == "customer" and row["messages"][1]["role"] == "agent" for row in rows)


def test_broken_files_are_broken_as_they_say(tmp_path: Path) -> None:
    generate_day(SMALL, DAY, tmp_path / "landing", tmp_path / "truth")
    folder = tmp_path / "landing" / "support" / DAY
    with pytest.raises(EOFError):
        gzip.decompress((folder / f"late-{DAY}.jsonl.gz").read_bytes())
    with pytest.raises(UnicodeDecodeError):
        (folder / "notes" / f"n-{DAY}-cp1252.txt").read_text("utf-8")
    assert b"\0" in (folder / "notes" / f"n-{DAY}-nul.txt").read_bytes()
    assert (folder / "notes" / f"n-{DAY}-empty.txt").read_bytes() == b""


def test_duplicates_are_as_similar_as_the_truth_says_and_reach_over_days() -> None:
    days = [make_day(CONFIG, day) for day in CONFIG.all_days[:3]]
    text = {doc.key: doc.text() for day in days for doc in day.documents}
    pairs = [pair for day in days for pair in day.pairs]
    for pair in pairs:
        true = plants.jaccard(plants.shingles(text[pair.copy]), plants.shingles(text[pair.original]))
        assert true == pytest.approx(pair.jaccard, abs=1e-4)
        assert (pair.kind == "exact") == (pair.jaccard == 1.0)
    assert sum(pair.copy[2:12] != pair.original[2:12] for pair in pairs) > len(pairs) / 4
    assert sum(pair.jaccard >= 0.7 for pair in pairs) > 0.9 * len(pairs)


def test_no_copy_reaches_back_over_the_shift() -> None:
    assert all(pair.original[2:12] >= SHIFT for pair in make_day(CONFIG, SHIFT).pairs)


def test_other_documents_are_no_near_duplicates() -> None:
    docs = [doc for doc in make_day(CONFIG, DAY).documents if not doc.plants]
    parts = [plants.shingles(doc.text()) for doc in docs]
    r = random.Random(0)
    pairs = [r.sample(range(len(docs)), 2) for _ in range(20_000)]
    assert max(plants.jaccard(parts[a], parts[b]) for a, b in pairs) < 0.5


@pytest.mark.parametrize("week", [range(7), range(7, 14)], ids=["before", "after"])
def test_each_week_teaches_every_fact(week: range) -> None:
    world = bank(CONFIG, CONFIG.all_days[week[0]])
    asked = {name.lower(): fact for fact in world.facts for name in (f"{fact.product}/{n}" for n in fact.attribute.names)}
    count: Counter[str] = Counter()
    phrasings: dict[str, set[str]] = {}
    by_product = {
        product: sorted((n for n in asked if n.startswith(product.lower() + "/")), key=len, reverse=True) for product in world.products
    }
    for day in (CONFIG.all_days[i] for i in week):
        for doc in make_day(CONFIG, day).documents:
            for question, answer in doc.turns if not doc.plants else ():
                product = next((p for p in world.products if p in question), None)
                names = [n for n in by_product[product] if n.split("/")[1] in question.lower()] if product else []
                if names and answer == asked[names[0]].value:
                    count[asked[names[0]].key] += 1
                    phrasings.setdefault(asked[names[0]].key, set()).add(question)
    assert len(count) == len(world.facts)
    assert min(count.values()) >= 25
    assert min(len(different) for different in phrasings.values()) >= 20


def test_held_out_templates_are_only_where_a_question_was_leaked() -> None:
    openings = [template.split("{")[0] for template in HELD_OUT_QUESTIONS]
    for day in (DAY, SHIFT):
        for doc in make_day(CONFIG, day).documents:
            leaked = any(opening in doc.text() for opening in openings)
            assert leaked == ("leak" in doc.plants), doc.key
    assert not set(QUESTIONS) & set(HELD_OUT_QUESTIONS)


def test_leaks_are_questions_of_the_suites_with_their_answers() -> None:
    every = {f"{row['question']} {row['answer']}" for rows in suites(CONFIG).values() for row in rows}
    for doc in make_day(CONFIG, SHIFT).documents:
        if "leak" in doc.plants:
            assert doc.paragraphs[-1] in every


def test_the_world_shifts() -> None:
    before, after = bank(CONFIG, CONFIG.all_days[6]), bank(CONFIG, SHIFT)
    assert (len(before.facts), len(after.facts)) == (60, 72)
    old = {fact.key: fact.value for fact in before.facts}
    news = shifted_facts(CONFIG)
    assert sum(fact.key in old for fact in news) == 30
    assert sum(fact.key not in old for fact in news) == 12
    assert all(old.get(fact.key) != fact.value for fact in news)


def test_an_article_states_each_fact_of_its_product_and_keeps_its_uri() -> None:
    for day in (DAY, SHIFT):
        world = bank(CONFIG, day)
        for article in product_articles(CONFIG, day):
            text = article.markdown()
            assert all(fact.value in text and fact.attribute.names[0] in text for fact in world.about(article.title))
            assert article.uri == article_uri(article.title)
            assert 60 < len(text.split()) < 130
    reissued = {article.uri for article in articles_of(CONFIG, SHIFT)}
    assert {article_uri(fact.product) for fact in shifted_facts(CONFIG)} <= reissued
    assert 1 <= len(articles_of(CONFIG, CONFIG.all_days[4])) <= 4


def test_suites_ask_in_held_out_words_and_know_the_right_article(tmp_path: Path) -> None:
    sizes = write_suites(CONFIG, tmp_path)
    assert sizes["facts"] == 150
    assert sizes["shifted"] >= 80
    assert sizes["unanswerable"] == 140
    stamp = (tmp_path / "support/suites/facts.jsonl").stat().st_mtime_ns
    write_suites(CONFIG, tmp_path)
    assert (tmp_path / "support/suites/facts.jsonl").stat().st_mtime_ns == stamp
    text = {article.uri: article.markdown() for article in product_articles(CONFIG, SHIFT)}
    absent = {fact.product for fact in absent_facts(bank(CONFIG, DAY))}
    for name in sizes:
        rows = read_jsonl(tmp_path / f"support/suites/{name}.jsonl")
        assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == len(rows)
        for row in rows:
            assert any(row["question"].startswith(template.split("{")[0]) for template in HELD_OUT_QUESTIONS)
            if name == "unanswerable":
                assert (row["kind"], row["answer"], row["relevant"]) == ("refusal", REFUSAL, [])
                assert any(product in row["question"] for product in absent)
            elif name != "facts":
                assert row["answer"] in text[row["relevant"][0]]


def test_values_have_valid_check_digits() -> None:
    r = random.Random(1)
    for _ in range(200):
        _, card = pii.sentence(r, "CREDIT_CARD", 1)
        digits = [int(d) for d in card.value if d.isdigit()][::-1]
        assert sum(d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(digits)) % 10 == 0
        _, iban = pii.sentence(r, "IBAN_CODE", 1)
        plain = iban.value.replace(" ", "")
        assert int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
        _, nhs = pii.sentence(r, "UK_NHS", 1)
        assert sum(int(d) * w for d, w in zip([c for c in nhs.value if c.isdigit()], range(10, 0, -1), strict=True)) % 11 == 0


def test_every_slot_of_a_sentence_is_filled() -> None:
    r = random.Random(2)
    for template in (*prose.SMALL_TALK, *prose.AGENT_TALK, *prose.NOTE_SENTENCES, *prose.GUIDE_SENTENCES):
        assert "{" not in prose.fill(r, template)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'products'"):
        build(generator.SupportConfig, {"product": 3}, "sources.yaml")
    with pytest.raises(ConfigError, match="documents_per_day: received 3"):
        SupportConfig(documents_per_day=3)
    with pytest.raises(ConfigError, match="outside the support source"):
        CONFIG.number("2025-12-31")
    assert len({attribute.names[0] for attribute in ATTRIBUTES}) == len(ATTRIBUTES)
