"""fastText's classifier (Joulin et al. 2016) for many short lines at once: the library's answers, as array arithmetic.

The library walks from n-gram to n-gram; here those of all lines are hashed and looked up together, which costs a sixth. It reads models
that were compressed and have a tree of labels (`quantize -qnorm`, `-loss hs`), such as lid.176.ftz.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_pipeline.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint32]
Chances = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

LINES = 512
"""Lines that are worked on at once: their n-grams stay in the processor's cache."""
_SINGLE = 64
"""Lines that are multiplied at a time: so few that no library shares the work among threads, which takes longer than the work."""
_MAGIC, _VERSION, _HIERARCHICAL, _CENTROIDS = 793712314, 12, 1, 256
_END, _SPACE, _NEWLINE = b"</s>", ord(" "), ord("\n")
_BASIS, _PRIME = np.uint32(2166136261), np.uint32(16777619)
_KEY, _SIEVE = np.uint64(0x9E3779B97F4A7C15), np.uint64(48)
_FLOOR = np.float32(1e-5)
"""What the library adds to the probability of every branch."""
_HALF = 0.51
"""Half of all chances: what is added makes them a little more than one."""


@dataclass(frozen=True)
class Tree:
    """A Huffman tree with the labels as leaves: the left and right child of each inner node, which are numbered after the labels."""

    left: Ints
    right: Ints

    @property
    def labels(self) -> int:
        return len(self.left) + 1

    def likeliest(self, right: Floats) -> tuple[Ints, Chances]:
        """The label at the end of the likeliest way down for each column, and how likely it is; `right` has the chance to turn right
        by inner node. Where always taking the likelier turn leads to more than half of all chances, no other way is likelier."""
        best, chance = self._greedy(right)
        if len(unsure := np.flatnonzero(chance <= _HALF)):
            best[unsure], chance[unsure] = self._of_all(right[:, unsure])
        return best, np.minimum(chance, 1.0)

    def _greedy(self, right: Floats) -> tuple[Ints, Chances]:
        best, chances = np.empty(right.shape[1], np.int64), np.ones(right.shape[1])
        column = np.arange(right.shape[1])
        node = np.full(len(column), len(self.left) - 1)
        while len(column):
            chance = right[node, column]
            turn = chance >= 0.5
            chances[column] *= np.where(turn, chance, np.float32(1) - chance) + _FLOOR
            below = np.where(turn, self.right[node], self.left[node])
            best[column] = below
            inner = np.flatnonzero(below >= self.labels)
            column, node = column[inner], below[inner] - self.labels
        return best, chances

    def _of_all(self, right: Floats) -> tuple[Ints, Chances]:
        scores = np.ones((2 * self.labels - 1, right.shape[1]))  # in 64 bits: a product as small as 1e-40 is slow in 32
        for level in self._levels():
            above, chance = scores[self.labels + level], right[level]
            scores[self.right[level]] = above * (chance + _FLOOR)
            scores[self.left[level]] = above * (np.float32(1) - chance + _FLOOR)
        labels = scores[: self.labels]
        best = np.argmax(labels, axis=0)
        return best, labels[best, np.arange(right.shape[1])]

    def _levels(self) -> Iterator[Ints]:
        """The inner nodes (counted from 0), from the root down."""
        level = np.array([len(self.left) - 1])
        while len(level):
            yield level
            below = np.concatenate([self.left[level], self.right[level]])
            level = below[below >= self.labels] - self.labels


@dataclass(frozen=True)
class LineModel:
    """A trained model: the rows of `vectors` that belong to words and, by bucket, to n-grams of characters (-1 for none)."""

    labels: tuple[str, ...]
    words: dict[bytes, int]
    places: npt.NDArray[np.int32]
    lengths: range
    vectors: Floats
    branches: Floats
    tree: Tree

    def predict(self, lines: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest label of each line, which has words between single spaces, and its probability."""
        return [found for first in range(0, len(lines), LINES) for found in self._predict(lines[first : first + LINES])]

    def _predict(self, lines: Sequence[str]) -> Iterator[tuple[str, float]]:
        joined = "\n".join(lines).encode("utf-8", "replace")
        sums = np.repeat(self.vectors[[self.words[_END]]], len(lines), axis=0)
        counts: Ints = np.ones(len(lines), np.int64)
        for line, rows in (self._of_words(joined), *self._of_grams(joined)):
            begins = np.flatnonzero(np.diff(line, prepend=-1))
            if len(rows):
                sums[line[begins]] += np.add.reduceat(self.vectors.take(rows, axis=0), begins, axis=0)
                counts += np.bincount(line, minlength=len(lines))
        best, probability = self._likeliest(np.divide(sums, counts[:, None], dtype=np.float32))
        yield from zip((self.labels[label] for label in best.tolist()), probability.tolist(), strict=True)

    def _of_words(self, joined: bytes) -> tuple[Ints, Ints]:
        """(line, row) of the words."""
        text, keys = _word_keys(joined)
        known, row_of_known, sieve = self._words
        likely = np.flatnonzero(sieve[keys >> _SIEVE])
        keys = keys[likely]
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        line = np.cumsum(np.append(False, text == _NEWLINE))
        return _known(line, np.where(known[at] == keys, row_of_known[at], -1), likely)

    @cached_property
    def _words(self) -> tuple[Keys, Ints, npt.NDArray[np.bool_]]:
        """The hashes of the words in ascending order, their rows, and with what bits they begin."""
        _, keys = _word_keys(b" ".join(self.words))
        order, sieve = np.argsort(keys), np.zeros(1 << 16, np.bool_)
        sieve[keys >> _SIEVE] = True
        return keys[order], np.array(list(self.words.values()))[order], sieve

    def _of_grams(self, joined: bytes) -> Iterator[tuple[Ints, Ints]]:
        """(line, row) of the n-grams inside each word, its ends marked with < and >, for one n after the other."""
        marked = b"<" + joined.replace(b" ", b"> <").replace(b"\n", b">\n<") + b">\n"
        text = np.frombuffer(marked, np.uint8)
        starts = np.flatnonzero((text & 0xC0) != 0x80)
        signed, first, wide = text.view(np.int8).astype(np.uint32), text[starts], _wide(starts, len(text))
        letter = (first != _SPACE) & (first != _NEWLINE)
        line = np.cumsum(first == _NEWLINE)
        buckets = np.uint32(len(self.places))
        hashes, inside, initial = np.full(len(starts) + 1, _BASIS), np.ones(len(starts) + 1, np.bool_), signed[starts]
        for n in range(1, self.lengths.stop):
            hashes, inside = (hashes[:-1] ^ initial[n - 1 :]) * _PRIME, inside[:-1] & letter[n - 1 :]
            for byte, characters in enumerate(wide, 1):
                at = characters[np.searchsorted(characters, n - 1) :]
                hashes[at - (n - 1)] = (hashes[at - (n - 1)] ^ signed[starts[at] + byte]) * _PRIME
            if n in self.lengths:
                at = np.flatnonzero(inside)
                found = hashes.take(at)
                found -= found // buckets * buckets  # a third of what % takes
                yield _known(line, self.places.take(found), at)

    def _likeliest(self, hidden: Floats) -> tuple[Ints, Chances]:
        """Of every row the label at the end of the likeliest way down the tree, and how likely it is."""
        blocks = (hidden[first : first + _SINGLE] for first in range(0, len(hidden), _SINGLE))
        with np.errstate(over="ignore"):
            right = np.float32(1) / (np.float32(1) + np.exp(-np.concatenate([self.branches @ block.T for block in blocks], axis=1)))
        return self.tree.likeliest(right)


def _known(line: Ints, rows: npt.NDArray[np.integer[Any]], at: Ints) -> tuple[Ints, Ints]:
    """Those with a row; `at` says where in `line` each row's line stands."""
    known = np.flatnonzero(rows >= 0)
    return line.take(at.take(known)), rows.take(known).astype(np.int64)


def _word_keys(joined: bytes) -> tuple[npt.NDArray[np.uint8], Keys]:
    """The white space between the words, and a 64-bit hash of every word: a sum of bytes times powers, taken from a running sum."""
    text = np.frombuffer(b" " + joined + b" ", np.uint8)
    edges = np.flatnonzero((text == _SPACE) | (text == _NEWLINE))
    powers = _powers(1 << len(text).bit_length())
    sums = np.cumsum(text * powers[: len(text)])
    starts, ends = edges[:-1], edges[1:]
    return text[edges[1:-1]], (sums[ends - 1] - sums[starts]) * powers[len(text) - starts] * _inverse(len(text))


@lru_cache(maxsize=8)
def _powers(size: int) -> Keys:
    return np.multiply.accumulate(np.concatenate([np.ones(1, np.uint64), np.full(size, _KEY)]))


def _inverse(size: int) -> np.uint64:
    """What takes the number of bytes out of a hash, so that it depends on the word alone."""
    return np.uint64(pow(int(_KEY), -size, 1 << 64))


def _wide(starts: Ints, end: int) -> list[Ints]:
    """The characters of more than one byte, of more than two, of more than three."""
    size = np.diff(starts, append=end)
    return [np.flatnonzero(size > byte) for byte in range(1, int(size.max()))]


class _Bytes:
    """The numbers of a binary file, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def array(self, kind: type[np.generic], size: int) -> npt.NDArray[np.generic]:
        found = np.frombuffer(self.data, kind, size, self.at)
        self.at += found.nbytes
        return found

    def name(self) -> bytes:
        end = self.data.index(b"\0", self.at)
        found, self.at = self.data[self.at : end], end + 1
        return found


def load_model(path: Path) -> LineModel:
    """The model in a file of fastText; InputError where it is none, or one of another kind."""
    file = _Bytes(path.read_bytes())
    try:
        return _model(file)
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(f"{path}: received {error}; expected a fastText model, quantised and with `-loss hs`") from error


def _model(file: _Bytes) -> LineModel:
    magic, version = file.numbers("ii")
    dim, _, _, _, _, word_grams, loss, _, buckets, least, most, _, _ = file.numbers("12id")
    if (magic, version, loss, word_grams) != (_MAGIC, _VERSION, _HIERARCHICAL, 1) or least < 2:
        raise ValueError(f"magic {magic}, version {version}, loss {loss}, word n-grams {word_grams}, character n-grams from {least}")
    size, known, _, _, pruned = file.numbers("iiiqq")
    entries = [(file.name(), file.numbers("qb")[0]) for _ in range(size)]
    kept = file.array(np.int32, 2 * pruned).reshape(-1, 2)
    places = np.full(buckets, -1, np.int32)
    places[kept[:, 0]] = kept[:, 1] + known
    vectors = _quantised(file, dim)
    if file.numbers("b") != (0,):
        raise ValueError("a quantised output")
    rows, width = file.numbers("qq")
    output = file.array(np.float32, rows * width).reshape(rows, width)
    return LineModel(
        tuple(name.decode().removeprefix("__label__") for name, _ in entries[known:]),
        {name: row for row, (name, _) in enumerate(entries[:known])},
        places,
        range(least, most + 1),
        vectors,
        np.asarray(output[: size - known - 1], np.float32),
        _huffman([count for _, count in entries[known:]]),
    )


def _quantised(file: _Bytes, dim: int) -> Floats:
    """A matrix of product-quantised rows with quantised norms (Joulin et al. 2016, FastText.zip)."""
    if file.numbers("bb") != (1, 1):
        raise ValueError("an input that is not quantised with norms")
    rows, _ = file.numbers("qq")
    codes = file.array(np.uint8, file.numbers("i")[0]).reshape(rows, -1)
    units = _decoded(file, codes)
    norms = _decoded(file, file.array(np.uint8, rows).reshape(rows, 1))
    return np.asarray(units[:, :dim] * norms, np.float32)


def _decoded(file: _Bytes, codes: npt.NDArray[np.generic]) -> Floats:
    """Rows by the numbers of their parts' centroids."""
    dim, parts, width, last = file.numbers("4i")
    centroids = file.array(np.float32, dim * _CENTROIDS)
    if last != width:
        raise ValueError(f"parts of {width} and {last} numbers")
    table = centroids.reshape(parts, _CENTROIDS, width)
    return np.concatenate([table[part][codes[:, part]] for part in range(parts)], axis=1).astype(np.float32)


def _huffman(counts: Sequence[int]) -> Tree:
    """The tree over labels in descending order of their counts, built as fastText builds it."""
    labels = len(counts)
    weights = [*counts, *repeat(10**15, labels - 1)]
    children: list[list[int]] = []
    leaf, node = labels - 1, labels
    for parent in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        children.append(pair)
        weights[parent] = weights[pair[0]] + weights[pair[1]]
    both = np.array(children)
    return Tree(both[:, 0], both[:, 1])
