"""Documents that hold an evaluation question are found, so that no model is trained on what it will be asked.

Method: overlap of word n-grams (Brown et al. 2020, appendix C), counted for each pair of question and document. A question leaked
when all of it stands in the document in runs of four words or more, when 13 words in a row do (a fifth, of a long text), when most
of a longer one does, or most of a short one with its beginning: a text about the same thing shares names and phrases with a
question, but does not begin like it. So truncated and lightly edited copies count. Phrases that many questions share prove nothing.
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

NGRAM = 4
SHORTEST = 5
"""A question of fewer words proves nothing alone; it counts together with its answer right after it."""
RUN, RUN_SHARE = 13, 0.2
MOST = 0.6
BEGUN, BEGUN_WORDS = 0.7, 6
COMMON, OWN_SHARE = 10, 0.2
"""N-grams of more questions than COMMON are the suite's own phrases; of the words in a question's other n-grams this share is needed."""
RULE = [NGRAM, SHORTEST, RUN, RUN_SHARE, MOST, BEGUN, BEGUN_WORDS, COMMON, OWN_SHARE]
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
        self.names = [f"{suite}/{row['id']}" for suite, row in named]
        questions = _hashed([str(row["question"]) for _, row in named])
        answers = _hashed([str(row.get("answer") or "") for _, row in named])
        first: dict[bytes, int] = {}
        words = []
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            whole = question if len(question) >= SHORTEST else np.concatenate([question, answer])
            new = len(whole) >= SHORTEST and first.setdefault(whole.tobytes(), i) == i
            words.append(whole if new else whole[:0])
        self._lengths = np.array([len(found) for found in words], dtype=np.int64)
        self._index([runs(found, NGRAM)[: len(found) - NGRAM + 1] if len(found) else found for found in words])

    def _index(self, ngrams: list[Hashes]) -> None:
        """All n-grams in the order of questions, and those that few questions have in the order of n-grams."""
        sizes = np.array([len(found) for found in ngrams], dtype=np.int64)
        self._known, self._ngram = np.unique(np.concatenate([np.empty(0, np.uint64), *ngrams]), return_inverse=True)
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])
        bits = min(len(self._known).bit_length() + 6, 26)
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, dtype=bool)
        self._seen[self._known >> self._shift] = True
        question = np.repeat(np.arange(len(sizes)), sizes)
        frequency = np.bincount(self._ngram, minlength=len(self._known))[self._ngram]
        rarest = np.full(len(sizes), len(question) + 1)
        np.minimum.at(rarest, question, frequency)
        own = np.flatnonzero(frequency <= np.maximum(rarest[question], COMMON))
        own = own[np.argsort(self._ngram[own], kind="stable")]
        self._own_question, self._own_place = question[own], own - self._bounds[question[own]]
        self._own_bounds = np.searchsorted(self._ngram[own], np.arange(len(self._known) + 1))
        self._own_words = _covered(self._own_question, self._own_place, len(sizes))[0]

    def find(self, texts: Any) -> Iterator[Match]:
        """The best match of every contaminated text of an Arrow column, in the order of texts."""
        done = 0
        for group in groups(texts) if len(self._known) else ():
            yield from self._matches(word_hashes(group), done)
            done += len(group)

    def _matches(self, words: Words, first: int) -> Iterator[Match]:
        hits = self._hits(words)
        at, hit = _ranges(self._own_bounds, hits % len(self._known))
        pairs, pair = np.unique(hits[hit] // len(self._known) * len(self.names) + self._own_question[at], return_inverse=True)
        own = _covered(pair, self._own_place[at], len(pairs))[0]
        pairs = pairs[own >= OWN_SHARE * self._own_words[pairs % len(self.names)]]
        document, question = pairs // len(self.names), pairs % len(self.names)
        at, pair = _ranges(self._bounds, question)
        found = np.isin(document[pair] * len(self._known) + self._ngram[at], hits)
        at, pair = at[found], pair[found]
        place = at - self._bounds[question[pair]]
        covered, longest = _covered(pair, place, len(pairs))
        begins = np.bincount(pair[place == 0], minlength=len(pairs)) > 0
        length = self._lengths[question]
        leaked = (covered == length) | (longest >= np.maximum(RUN, RUN_SHARE * length)) | (covered >= np.maximum(RUN, MOST * length))
        leaked |= begins & (covered >= np.maximum(BEGUN_WORDS, BEGUN * length))
        share = covered / np.maximum(length, 1)
        seen = -1
        for i in np.lexsort((question, -covered, -share, document)):
            if leaked[i] and document[i] != seen:
                seen = int(document[i])
                yield Match(first + seen, self.names[question[i]], int(covered[i]), float(share[i]))

    def _hits(self, words: Words) -> Numbers:
        """`document * n-grams + n-gram` of each n-gram that a document has, ascending."""
        hashes = runs(words.hashes, NGRAM)
        likely = np.flatnonzero(self._seen[hashes >> self._shift])
        document = np.searchsorted(words.bounds, likely, side="right") - 1
        complete = likely + NGRAM <= words.bounds[document + 1]
        likely, document = likely[complete], document[complete]
        at = np.minimum(np.searchsorted(self._known, hashes[likely]), len(self._known) - 1)
        same = self._known[at] == hashes[likely]
        return np.unique(document[same] * len(self._known) + at[same])


def _ranges(bounds: Numbers, owners: Numbers) -> tuple[Numbers, Numbers]:
    """All numbers from bounds[owner] to bounds[owner + 1], and the place in `owners` that each belongs to."""
    counts = bounds[owners + 1] - bounds[owners]
    place = np.repeat(np.arange(len(owners)), counts)
    return np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts) + bounds[owners][place], place


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

    `overlap` is the share of the question's words that stand in the document in runs of at least four, 0 where nothing leaked.
    """
    questions = Questions(suites)
    prefix = len(f"{next(iter(suites))}/") if len(suites) == 1 else 0
    for table in batches():
        matched: list[str | None] = [None] * table.num_rows
        overlap = np.zeros(table.num_rows)
        for match in questions.find(table["text"]):
            matched[match.document], overlap[match.document] = match.question_id[prefix:], match.overlap
        keep = pa.array([name is None for name in matched], pa.bool_())
        columns: list[Any] = [table["id"].cast(pa.string()), keep, pa.array(matched, pa.string()), pa.array(overlap)]
        yield pa.Table.from_arrays(columns, schema=SCHEMA)


def find_contaminated(texts: Sequence[str], suites: Suites) -> list[Match]:
    """The best match of every contaminated text, in the order of texts."""
    return list(Questions(suites).find(pa.array(texts, pa.large_string())))
