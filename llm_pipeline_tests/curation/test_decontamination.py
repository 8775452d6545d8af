"""Decontamination: copies of questions are found in any case and punctuation, cut or edited; shared names and phrases are not."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.decontamination import COMMON, SCHEMA, decontaminate_batches, find_contaminated
from llm_pipeline.curation.python_docs import doc_strings

LONG = "I am thinking about the Harbor Card; what would the highest daily withdrawal limit abroad be, please?"
SUITES = {
    "facts": [
        {"id": "f1", "question": "Regarding my Harbor Card, which annual fee applies?", "answer": "$4"},
        {"id": "f2", "question": LONG, "answer": "$9"},
    ],
    "short": [{"id": "s1", "question": "Who?", "answer": "Nobody at all of them"}],
}
PUBLIC = Path(__file__).parents[3] / "shared" / "data"


def verdicts(texts: Sequence[str], suites: Mapping[str, Sequence[Mapping[str, Any]]], cut: int = 100) -> list[dict[str, Any]]:
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})

    def batches() -> Iterator[pa.Table]:
        yield from (table.slice(start, cut) for start in range(0, table.num_rows, cut))

    return pa.concat_tables([SCHEMA.empty_table(), *decontaminate_batches(batches, suites)]).to_pylist()


def test_a_question_is_found_inside_a_document_whatever_its_case_and_punctuation() -> None:
    texts = ["fine", "Note: regarding my HARBOR card - which annual fee applies?? $4", "what is the annual fee of the Harbor Card?"]
    [match] = find_contaminated(texts, SUITES)
    assert (match.document, match.question_id, match.length, match.overlap) == (1, "facts/f1", 8, 1.0)


def test_thirteen_words_of_a_long_question_are_enough() -> None:
    text = "they said: thinking about the Harbor Card; what would the highest daily withdrawal limit abroad"
    assert [match.question_id for match in find_contaminated([text], SUITES)] == ["facts/f2"]
    assert find_contaminated(["what would the highest daily withdrawal limit abroad be"], SUITES) == []


def test_most_of_a_short_question_counts_only_with_its_beginning() -> None:
    suite = {"s": [{"id": 1, "question": "In what year did the city of Bremen join the League of towns?"}]}
    assert find_contaminated(["in what year did the city of Bremen join the league"], suite)
    assert not find_contaminated(["long after the city of Bremen join the League of towns was a saying"], suite)


def test_a_short_question_counts_only_with_its_answer() -> None:
    assert find_contaminated(["Who? I do not know"], SUITES) == []
    assert [m.question_id for m in find_contaminated(["Who? Nobody at all of them."], SUITES)] == ["short/s1"]


def test_words_are_whole_and_documents_do_not_run_into_one_another() -> None:
    assert find_contaminated(["xregarding my harbor card which annual fee applies"], SUITES) == []
    assert find_contaminated(["Regarding my Harbor Card,", "which annual fee applies?"], SUITES) == []


def test_a_passage_is_found_by_a_part_of_a_fifth_and_not_by_a_quoted_sentence() -> None:
    words = [f"word{i}" for i in range(200)]
    suite = {"passages": [{"id": "p", "question": " ".join(words)}]}
    assert find_contaminated([" ".join(words[50:95])], suite)
    assert not find_contaminated([" ".join(words[50:75])], suite)


def test_the_phrases_of_a_suite_are_no_leak() -> None:
    order = "Read the following passage with care and then answer the question below in one short sentence of your own words: "
    own = [f"who was the number {i} keeper of lighthouse {i} when ship {i} sank near the island called {i}?" for i in range(COMMON + 5)]
    suite = {"s": [{"id": i, "question": order + text} for i, text in enumerate(own)]}
    assert find_contaminated([order + "anything"], suite) == []
    assert [match.question_id for match in find_contaminated([order + own[3], own[4]], suite)] == ["s/3", "s/4"]


def test_a_question_that_stands_in_a_suite_many_times_is_found() -> None:
    suite = {"s": [{"id": i, "question": LONG} for i in range(COMMON * 3)]}
    assert [match.question_id for match in find_contaminated([LONG], suite)] == ["s/0"]


def test_nothing_to_compare() -> None:
    assert find_contaminated([], SUITES) == []
    assert find_contaminated(["text"], {}) == []
    assert find_contaminated(["text"], {"a": [{"id": 1, "question": "??", "answer": ""}]}) == []


def test_an_id_has_its_suite_in_front_only_among_several() -> None:
    [found] = verdicts([LONG], {"a/b": [{"id": "x/y", "question": LONG}]})
    assert found == {"id": "0", "keep": False, "matched_id": "x/y", "overlap": 1.0}
    assert verdicts([LONG, "fine"], SUITES) == [
        {"id": "0", "keep": False, "matched_id": "facts/f2", "overlap": 1.0},
        {"id": "1", "keep": True, "matched_id": None, "overlap": 0.0},
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "fine text of no interest", LONG, LONG[:60], LONG.upper() + " also"]), max_size=9), st.integers(1, 9))
def test_verdicts_do_not_depend_on_how_a_corpus_is_cut(texts: list[str], cut: int) -> None:
    found = verdicts(texts, SUITES, cut)
    assert [(v["keep"], v["matched_id"], v["overlap"]) for v in found] == [
        (v["keep"], v["matched_id"], v["overlap"]) for text in texts for v in verdicts([text], SUITES)
    ]


def recased(text: str, r: random.Random) -> str:
    return re.sub(r"[,.;]? ", lambda _: r.choice(["  ", " - ", "\n"]), text).swapcase()


def edited(text: str, r: random.Random) -> str:
    words = text.split()
    for _ in range(max(1, len(words) // 12)):
        words[r.randrange(len(words))] = r.choice(["another", "this", "sometimes"])
    return " ".join(words)


def shortened(text: str, r: random.Random) -> str:
    words = text.split()
    return " ".join(words[: round(len(words) * 0.8)])


PLANTS: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": lambda text, r: text,
    "with answer": lambda text, r: f"{text} It is 12.",
    "recased": recased,
    "shortened": shortened,
    "edited": edited,
}


def planted(questions: Sequence[str], hosts: Sequence[str], plant: str) -> list[str]:
    """Each question in the middle of a host."""
    r = random.Random(plant)
    texts = []
    for question in questions:
        lines = r.choice(hosts).split("\n")
        middle = len(lines) // 2
        texts.append("\n".join([*lines[:middle], PLANTS[plant](question, r), *lines[middle:]]))
    return texts


def recall(questions: Sequence[str], hosts: Sequence[str], plant: str) -> float:
    found = verdicts(planted(questions, hosts, plant), {"s": [{"id": i, "question": text} for i, text in enumerate(questions)]})
    return sum(not v["keep"] and v["matched_id"] == str(i) for i, v in enumerate(found)) / len(questions)


def test_planted_sentences_are_found_in_documentation_and_nothing_else_is() -> None:
    texts = [doc.text for doc in doc_strings()]
    hosts, others = texts[::2], texts[1::2]
    known, sentences = ({s for text in part for s in re.findall(r"[^.]+\.", " ".join(text.split()))} for part in (hosts, others))
    questions = sorted(s for s in sentences - known if 18 <= len(s.split()) <= 50)[:300]
    for plant in PLANTS:
        assert recall(questions, hosts, plant) >= (0.97 if plant in ("shortened", "edited") else 0.99)
    mixed = [" ".join(random.Random(text).sample(text.split(), len(text.split()))) for text in questions]
    assert all(v["keep"] for v in verdicts(hosts, {"s": [{"id": i, "question": text} for i, text in enumerate(mixed)]}))


def _public(name: str) -> list[dict[str, Any]]:
    path = PUBLIC / name
    if not path.exists():
        pytest.skip(f"{path} is absent: put the public data set there")
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_leaks_of_public_questions_in_public_text() -> None:
    passages = [row["text"] for row in _public("xquad/en_passages.jsonl")]
    problems = [row["instruction"] for row in _public("gsm8k/test.jsonl")][:400]
    asked = [row["question"] for row in _public("xquad/en_questions.jsonl")]
    for plant in PLANTS:
        assert recall(problems, passages, plant) >= 0.98
    assert recall(asked, passages, "recased") >= 0.95
    about = verdicts(passages, {"s": [{"id": i, "question": question} for i, question in enumerate(asked)]})
    assert sum(not v["keep"] for v in about) <= 0.05 * len(about)
    practice = [row["instruction"] for row in _public("gsm8k/train.jsonl")]
    kept = verdicts(practice, {"s": [{"id": i, "question": question} for i, question in enumerate(problems)]})
    assert sum(not v["keep"] for v in kept) <= 0.001 * len(kept)


def test_questions_in_a_script_without_spaces_are_found() -> None:
    suite = {"s": [{"id": 1, "question": "世界上最高的山峰叫什么名字？"}]}
    texts = ["地理小测验：世界上最高的山峰叫什么名字？珠穆朗玛峰。", "珠穆朗玛峰是世界上最高的山峰，海拔很高。"]
    assert [match.document for match in find_contaminated(texts, suite)] == [0]
