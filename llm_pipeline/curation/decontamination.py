"""Documents that hold an evaluation question are found, so that no model is trained on what it will be asked.

Method: overlap of word n-grams (Brown et al. 2020, appendix C), counted for each question and document: a question leaked when
all of its words stand in the document in runs, when a run of 13 does (or a fifth of a long text), or when most of a longer
question does, so that truncated and lightly edited copies count. A document that only talks about the same thing shares names,
which are shorter. Questions are hashed once; documents stream through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_pipeline.curation.signatures import runs
from llm_pipeline.curation.word_hashes import Hashes, Words, groups, word_hashes

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches

NGRAM = 5
SHORTEST = 5
"""A question of fewer words proves nothing alone; it counts together with its answer right after it."""
RUN, RUN_SHARE = 13, 0.2
SHARE = 0.6
COMMON = 10
"""An n-gram of more questions than that is the suite's own phrase; it proves nothing about a question that has others."""
RULE = [NGRAM, SHORTEST, RUN, RUN_SHARE, SHARE, COMMON]
Numbers = NDArray[np.int64]
Suites = Mapping[str, Sequence[Mapping[str, Any]]]
_FIELDS: dict[str, Any] = {"id": pa.string(), "keep": pa.bool_(), "matched_id": pa.string(), "overlap": pa.float64()}
SCHEMA: Any = pa.schema(_FIELDS)


@dataclass(frozen=True)
class Match:
    """Document number `document` holds `length` words of the question `question_id` (`suite/id`), a share `overlap` of them all."""

    document: int
    question_id: str
    length: int
    overlap: float


class Questions:
    """The n-grams of all questions, ready to be looked up."""

    def __init__(self, suites: Suites) -> None:
        named = [(suite, row) for suite, rows in sorted(suites.items()) for row in rows]
        self.ids = [str(row["id"]) for _, row in named]
        self.names = [f"{suite}/{row['id']}" for suite, row in named]
        questions = _hashed([str(row["question"]) for _, row in named])
        answers = _hashed([str(row.get("answer") or "") for _, row in named])
        first: dict[bytes, int] = {}
        words = []
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            whole = question if len(question) >= SHORTEST else np.concatenate([question, answer])
            new = len(whole) >= SHORTEST and first.setdefault(whole.tobytes(), i) == i
            words.append(whole if new else whole[:0])
        self.lengths = np.array([len(found) for found in words], dtype=np.int64)
        self._index([runs(found, NGRAM)[: len(found) - NGRAM + 1] if len(found) else found for found in words])

    def _index(self, ngrams: list[Hashes]) -> None:
        sizes = np.array([len(found) for found in ngrams], dtype=np.int64)
        flat = np.concatenate([np.empty(0, np.uint64), *ngrams])
        self._ngrams, at = np.unique(flat, return_inverse=True)
        order = np.argsort(at, kind="stable")
        self._question = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._place = (np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes))[order]
        self._first = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=len(self._ngrams)))])
        self._seen = np.zeros(1 << 24, dtype=bool)
        self._seen[self._ngrams >> np.uint64(40)] = True
        common = np.diff(self._first)[at[order]] > COMMON
        covered, _ = _covered(self._question[~common], self._place[~common], len(sizes))
        own = covered >= RUN
        keep = ~(common & own[self._question])
        self.lengths = np.where(own, covered, self.lengths)
        counts = np.add.reduceat(keep, self._first[:-1]) if len(keep) else np.empty(0, np.int64)
        self._question, self._place = self._question[keep], self._place[keep]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def matches(self, words: Words) -> Iterator[tuple[int, int, int, float]]:
        """(document, question, words, share of the question) of the best matching question of each document that holds one."""
        if not len(self._ngrams):
            return
        hashes = runs(words.hashes, NGRAM)
        likely = np.flatnonzero(self._seen[hashes >> np.uint64(40)])
        document = np.searchsorted(words.bounds, likely, side="right") - 1
        complete = likely + NGRAM <= words.bounds[document + 1]
        likely, document = likely[complete], document[complete]
        at = np.minimum(np.searchsorted(self._ngrams, hashes[likely]), len(self._ngrams) - 1)
        same = self._ngrams[at] == hashes[likely]
        hits = np.unique(document[same] * len(self._ngrams) + at[same])
        document, at = hits // len(self._ngrams), hits % len(self._ngrams)
        counts = self._first[at + 1] - self._first[at]
        posting = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(self._first[at], counts)
        yield from self._judge(np.repeat(document, counts), self._question[posting], self._place[posting])

    def _judge(self, document: Numbers, question: Numbers, place: Numbers) -> Iterator[tuple[int, int, int, float]]:
        pairs, pair = np.unique(document * len(self.names) + question, return_inverse=True)
        covered, longest = _covered(pair, place, len(pairs))
        document, question = pairs // len(self.names), pairs % len(self.names)
        length = self.lengths[question]
        leaked = (covered >= length) | (longest >= np.maximum(RUN, RUN_SHARE * length)) | (covered >= np.maximum(RUN, SHARE * length))
        share = np.minimum(covered / np.maximum(length, 1), 1.0)
        seen = -1
        for i in np.lexsort((question, -covered, -share, document)):
            if leaked[i] and document[i] != seen:
                seen = int(document[i])
                yield seen, int(question[i]), int(covered[i]), float(share[i])


def _hashed(texts: list[str]) -> list[Hashes]:
    found: list[Hashes] = []
    for group in groups(pa.array(texts, pa.large_string())):
        words = word_hashes(group)
        found.extend(words.hashes[start:end] for start, end in zip(words.bounds[:-1], words.bounds[1:], strict=True))
    return found


def _covered(owner: Numbers, place: Numbers, owners: int) -> tuple[Numbers, Numbers]:
    """Of n-grams at places of their owners: how many words they cover, and the longest run of words, by owner."""
    order = np.lexsort((place, owner))
    owner, place = owner[order], place[order]
    step = np.diff(place, append=0)
    last = np.diff(owner, append=-1) != 0
    covered = np.bincount(owner, np.where(last, NGRAM, np.clip(step, 0, NGRAM)), owners).astype(np.int64)
    longest = np.zeros(owners, dtype=np.int64)
    ends = np.flatnonzero(last | (step > 1))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    np.maximum.at(longest, owner[ends], place[ends] - place[starts] + NGRAM)
    return covered, longest


def decontaminate_batches(batches: Batches, suites: Suites) -> Iterator[pa.Table]:
    """Columns id, keep, matched_id (of the question that overlaps most; after its suite and `/` where there are several) and overlap.

    `overlap` is the share of the question's words that stand in the document in runs of at least five, 0 where nothing leaked.
    """
    questions = Questions(suites)
    names = questions.names if len(suites) > 1 else questions.ids
    for table in batches():
        yield decontaminate_table(table, questions, names)


def decontaminate_table(table: pa.Table, questions: Questions, names: Sequence[str]) -> pa.Table:
    """SCHEMA for each row of a table; `names` is what the questions are called."""
    matched: list[str | None] = [None] * table.num_rows
    overlap = np.zeros(table.num_rows)
    for document, question, _, share in _matches(questions, table["text"]):
        matched[document], overlap[document] = names[question], share
    keep = pa.array([name is None for name in matched], pa.bool_())
    columns: list[Any] = [table["id"].cast(pa.string()), keep, pa.array(matched, pa.string()), pa.array(overlap)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def find_contaminated(texts: Sequence[str], suites: Suites) -> list[Match]:
    """The best match of every contaminated text, in the order of texts."""
    questions = Questions(suites)
    found = _matches(questions, pa.array(texts, pa.large_string()))
    return [Match(document, questions.names[question], length, share) for document, question, length, share in found]


def _matches(questions: Questions, texts: Any) -> Iterator[tuple[int, int, int, float]]:
    done = 0
    for group in groups(texts):
        for document, question, length, share in questions.matches(word_hashes(group)):
            yield done + document, question, length, share
        done += len(group)
