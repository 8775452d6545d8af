"""Questions with short answers found in conversations, and the articles of the same snapshot that hold those answers."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llm_pipeline.curation.pii.pseudonyms import PLACEHOLDER
from llm_pipeline.curation.signatures import normalise
from llm_pipeline.curation.support.world import REFUSAL

PASSAGE_WORDS = 110
Row = dict[str, Any]
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_SUBJECT = re.compile(r"[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)+")
_REQUEST = re.compile(
    r"(?i)\?|\b(?:tell me|i would like to know|my question|remind me|looking for|need the|please (?:say|explain|give)|question about)\b"
)
_SHORT, _LONG = 10, 40


@dataclass(frozen=True)
class Pair:
    """One question and its answer as a conversation has them; a whole conversation names all its questions."""

    question: str
    answer: str
    cluster_id: str
    document_id: str
    day: str
    asked: tuple[str, ...] = ()

    @property
    def questions(self) -> tuple[str, ...]:
        return self.asked or (self.question,)


def question_key(question: str) -> str:
    """What makes two questions the same: their words."""
    return normalise(question)


def pairs_of(document: Row) -> list[Pair]:
    """The turns of a conversation that are a question and a short answer, without personal data."""
    messages = json.loads(document["messages"])
    found = []
    for asked, said in pairwise(messages):
        if (asked["role"], said["role"]) == ("user", "assistant") and is_question_and_answer(asked["content"], said["content"]):
            found.append(Pair(asked["content"].strip(), said["content"].strip(), document["cluster_id"], document["id"], document["day"]))
    return found


def is_question_and_answer(question: str, answer: str) -> bool:
    """A request about something named, answered by a bare value or the refusal, or by a sentence that repeats its words."""
    question, answer = question.strip(), answer.strip()
    if not question or not answer or PLACEHOLDER.search(question + answer):
        return False
    if answer == REFUSAL:
        return subjects(question) != []
    if not answer.endswith((".", "!", "?")):
        return len(answer.split()) <= _SHORT and (bool(_REQUEST.search(question)) or subjects(question) != [])
    shared = {word for word in normalise(question).split() if len(word) > 3} & set(normalise(answer).split())
    return "?" in question and len(answer.split()) <= _LONG and len(_SENTENCE.split(answer)) == 1 and len(shared) > 1


def subjects(question: str) -> list[str]:
    """The named things of a question: runs of at least two capitalised words, the longest first."""
    return sorted(set(_SUBJECT.findall(question)), key=lambda name: (-len(name), name))


def fresh(pairs: Iterable[Pair], library: Library) -> list[Pair]:
    """One pair per question, the newest; a value that a newer article about its subject does not hold any more is stale and goes."""
    newest: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.day, pair.document_id, pair.question, pair.answer)):
        if not library.outdates(pair):
            newest[question_key(pair.question)] = pair
    return [newest[key] for key in sorted(newest)]


def passage_text(document: Row) -> str:
    """The text as retrieval cuts it: without a first line that only repeats the title, paragraphs on lines of their own."""
    text: str = document["text"]
    first, _, rest = text.partition("\n")
    if rest.strip() and first.lstrip("#").strip().casefold() == (document["title"] or "").strip().casefold():
        text = rest
    return "\n".join(" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip())


class Library:
    """The readable documents of a snapshot, found by subject."""

    def __init__(self, documents: Sequence[Row]) -> None:
        ordered = sorted(documents, key=lambda row: (row["day"], row["id"]))
        articles = [row for row in ordered if row["kind"] == "article"]
        self._articles = [(row["day"], passage_text(row)) for row in articles]
        self._titles = [row["title"] or "" for row in articles]
        self._prose = [_cut(passage_text(row), 0, 60) for row in ordered if row["kind"] in ("web", "note")][:400]
        self._by_subject: dict[str, list[tuple[str, str]]] = {}
        self._values: dict[str, set[str]] = defaultdict(set)
        for row in ordered:
            for pair in pairs_of(row) if row["kind"] == "conversation" and row["messages"] else ():
                if pair.answer != REFUSAL and not pair.answer.endswith("."):
                    self._values[_shape(pair.answer)].add(pair.answer)
        self._pools = {shape: sorted(values) for shape, values in self._values.items()}

    def about(self, question: str) -> list[tuple[str, str]]:
        """(day, text) of the articles that name the question's subject, oldest first."""
        for subject in subjects(question):
            if subject not in self._by_subject:
                named = zip(self._articles, self._titles, strict=True)
                self._by_subject[subject] = [article for article, title in named if subject in article[1] or subject in title]
            if self._by_subject[subject]:
                return self._by_subject[subject]
        return []

    def outdates(self, pair: Pair) -> bool:
        """Whether an article newer than the conversation is about its subject and does not hold its value (the refusal is no value)."""
        articles = self.about(pair.question)
        newer = [text for day, text in articles if day > pair.day]
        return bool(newer) and pair.answer != REFUSAL and not any(_holds(text, pair.answer) for text in newer)

    def article(self, pair: Pair) -> str | None:
        """The newest article that names the subject and holds the value."""
        return next((text for _, text in reversed(self.about(pair.question)) if _holds(text, pair.answer)), None)

    def passage(self, pair: Pair) -> str:
        """The article, or when it is long the part around the value."""
        text = self.article(pair) or ""
        return _cut(text, text.find(pair.answer), PASSAGE_WORDS)

    def without_answer(self, pair: Pair) -> str:
        """The article's passage without the sentences that hold the value; empty when nothing of it is left."""
        sentences = _SENTENCE.split(self.passage(pair))
        return " ".join(sentence for sentence in sentences if pair.answer not in sentence)

    def distractors(self, pair: Pair, r: random.Random, n: int) -> list[str]:
        """`n` passages about something else that do not hold the value: mostly articles, sometimes other prose."""
        named = subjects(pair.question)
        found: list[str] = []
        for _ in range(8 * n):
            pool = [text for _, text in self._articles] if r.random() < 0.75 or not self._prose else self._prose
            if not pool or len(found) == n:
                break
            text = _cut(r.choice(pool), 0, PASSAGE_WORDS)
            if text not in found and pair.answer not in text and not any(name in text for name in named):
                found.append(text)
        return found

    def another(self, value: str, r: random.Random) -> str | None:
        """A different value of the same shape: other digits (valid times stay valid), or another wording seen in the snapshot."""
        if re.search(r"\d", value):
            for _ in range(5):
                other = re.sub(r"\d{1,2}:\d\d|\d+", lambda m: _number(m.group(), r), value)
                if other != value:
                    return other
            return None
        others = [other for other in self._pools.get(_shape(value), ()) if other != value]
        return r.choice(others) if others else None


def _holds(text: str, value: str) -> bool:
    return re.search(rf"(?<![\w$.,]){re.escape(value)}(?![\w%]|[.,]\d)", text) is not None


def _number(digits: str, r: random.Random) -> str:
    if ":" in digits:
        return f"{r.randint(6, 22)}:{r.choice(('00', '15', '30', '45'))}"
    first = str(r.randint(1, 9)) if digits[0] != "0" else "0"
    return first + "".join(str(r.randint(0, 9)) for _ in digits[1:])


def _shape(value: str) -> str:
    """Values of one shape can stand for one another: digits become 0, words only whether two things are joined."""
    return re.sub(r"\d+", "0", value) if re.search(r"\d", value) else f"words and={' and ' in value}"


def _cut(text: str, at: int, words: int) -> str:
    """At most about `words` words in whole sentences, those around the character `at`."""
    if len(text.split()) <= words:
        return text
    sentences, kept, start = _SENTENCE.split(text), [], 0
    for sentence in sentences:
        end = start + len(sentence) + 1
        if end > at:
            kept.append(sentence)
        if sum(len(part.split()) for part in kept) >= words * 0.8:
            break
        start = end
    return " ".join(" ".join(kept).split()[: words * 2])
