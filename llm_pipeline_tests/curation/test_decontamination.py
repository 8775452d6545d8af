"""Decontamination: whole questions are found in any case and punctuation, shared names alone are not."""

from __future__ import annotations

from llm_pipeline.curation.decontamination import find_contaminated

LONG = "I am thinking about the Harbor Card; what would the highest daily withdrawal limit abroad be, please?"
SUITES = {
    "facts": [
        {"id": "f1", "question": "Regarding my Harbor Card, which annual fee applies?", "answer": "$4"},
        {
            "id": "f2",
            "question": LONG,
            "answer": "$9",
        },
    ],
    "short": [{"id": "s1", "question": "Who?", "answer": "Nobody at all of them"}],
}


def test_a_question_is_found_inside_a_document_whatever_its_case_and_punctuation() -> None:
    texts = ["fine", "Note: regarding my HARBOR card - which annual fee applies?? $4", "what is the annual fee of the Harbor Card?"]
    [match] = find_contaminated(texts, SUITES)
    assert (match.document, match.question_id, match.length) == (1, "facts/f1", 8)


def test_thirteen_words_of_a_long_question_are_enough() -> None:
    text = "they said: thinking about the Harbor Card; what would the highest daily withdrawal limit abroad"
    assert [match.question_id for match in find_contaminated([text], SUITES)] == ["facts/f2"]
    assert find_contaminated(["what would the highest daily withdrawal limit abroad be"], SUITES) == []


def test_a_short_question_counts_only_with_its_answer() -> None:
    assert find_contaminated(["Who? I do not know"], SUITES) == []
    assert [m.question_id for m in find_contaminated(["Who? Nobody at all of them."], SUITES)] == ["short/s1"]


def test_words_are_whole() -> None:
    assert find_contaminated(["xregarding my harbor card which annual fee applies"], SUITES) == []


def test_nothing_to_compare() -> None:
    assert find_contaminated([], SUITES) == []
    assert find_contaminated(["text"], {}) == []
    assert find_contaminated(["text"], {"a": [{"id": 1, "question": "??", "answer": ""}]}) == []
