"""Texts to hashes of their words, some hundred MB a second: what duplicates and leaks are looked for with.

Two texts have the same words when `normalise` makes them the same. Whole batches go through without a Python object for each
word or text: ASCII text as bytes, other text through a table of code points, and only text in which letters and marks
combine through `normalise` itself.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CHARACTERS = 1 << 19
"""Texts are worked on in groups of about so many bytes, which stay in the processor's cache."""
Hashes = NDArray[np.uint64]
Bounds = NDArray[np.int64]
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Letters of scripts without spaces between words (Thai, Lao, Burmese, Khmer, kana, Han): each counts as a word."""
_WORD = re.compile(f"(?![\\W_])[{UNSPACED}]|[^\\W_{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_LETTERS = bytes(byte if byte >= 128 or chr(byte).isalnum() else 0 for byte in bytes(range(256)).lower())
_LONG = 64
_PAGE = 256
_HARD = 0xFFFFFFFF
_OWN = 1 << 30
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)


def normalise(text: str) -> str:
    """Lower-case words of letters and digits with single spaces: what is compared, so case, accents' form and punctuation are not.

    In scripts without spaces every letter is a word.
    """
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


@dataclass(frozen=True)
class Words:
    """The words of several texts as 64-bit hashes, one after another; text i has those from `bounds[i]` to `bounds[i + 1]`."""

    hashes: Hashes
    bounds: Bounds


def groups(texts: Any) -> Iterator[Any]:
    """The texts in order, in arrays of about CHARACTERS bytes and at least one text; a null is an empty text."""
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        strings: Any = chunk.cast(pa.large_string())
        filled: Any = pc.fill_null(strings, "")
        lengths = np.asarray(pc.binary_length(filled), dtype=np.int64)
        number = np.cumsum(lengths) // CHARACTERS
        edges = np.append(np.flatnonzero(np.diff(number, prepend=-1)), len(filled))
        for start, end in pairwise(edges.tolist()):
            yield filled.slice(start, end - start)


def word_hashes(texts: Any) -> Words:
    """Of one of the `groups`."""
    plain = _plain(texts)
    joined: Any = pc.binary_join(pa.ListArray.from_arrays([0, len(plain)], plain), pa.scalar("\0", pa.large_string()))
    letters = np.frombuffer(b"\0" + joined[0].as_buffer().to_pybytes().translate(_LETTERS) + bytes(8), dtype=np.uint8)
    inside = letters != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    firsts = np.cumsum(np.asarray(pc.binary_length(plain), dtype=np.int64) + 1)
    bounds = np.searchsorted(starts, firsts, side="right")
    return Words(_hash(letters, starts, ends), np.concatenate([[0], bounds]))


def mix(hashes: Hashes) -> Hashes:
    """Spread every bit over all 64 (the finaliser of MurmurHash3, shortened); works in place."""
    hashes *= _MULTIPLIERS[0]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MULTIPLIERS[1]
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _hash(letters: NDArray[np.uint8], starts: Bounds, ends: Bounds) -> Hashes:
    """Eight bytes of every word at a time; very long words by a library."""
    eights = np.ndarray(len(letters) - 7, dtype="<u8", buffer=letters, strides=(1,))
    lengths = ends - starts
    hashes = mix(eights[starts] & _FIRST_BYTES[np.minimum(lengths, 8)])
    for done in range(8, _LONG, 8):
        longer = np.flatnonzero(lengths > done)
        if not len(longer):
            return hashes
        hashes[longer] = mix(
            (hashes[longer] * _MULTIPLIERS[2]) ^ (eights[starts[longer] + done] & _FIRST_BYTES[np.minimum(lengths[longer] - done, 8)])
        )
    for i in np.flatnonzero(lengths > _LONG):
        hashes[i] = int.from_bytes(hashlib.blake2b(letters[starts[i] : ends[i]].tobytes(), digest_size=8).digest(), "little")
    return hashes


def _plain(texts: Any) -> Any:
    """Texts as they are where they are ASCII, the others normalised (they may keep several spaces in a row)."""
    other = pc.invert(pc.string_is_ascii(texts))
    if not pc.any(other).as_py():
        return texts
    return pc.replace_with_mask(texts, other, pa.array(_normalised(texts.filter(other).to_pylist()), pa.large_string()))


def _normalised(texts: list[str]) -> list[str]:
    points = np.frombuffer("\n".join(texts).encode("utf-32-le"), dtype="<u4")
    mapped = _pages(points)
    ends = np.cumsum([len(text) + 1 for text in texts]) - 1
    mapped[ends[:-1]] = ord("\n")
    hard = np.unique(np.searchsorted(ends, np.flatnonzero(mapped == _HARD)))
    mapped[mapped == _HARD] = ord(" ")
    own = np.flatnonzero(mapped & _OWN)
    mapped = np.insert(mapped & ~np.uint32(_OWN), np.concatenate([own, own + 1]), ord(" ")) if len(own) else mapped
    found = mapped.tobytes().decode("utf-32-le").split("\n")
    for i in hard:
        found[i] = normalise(texts[i])
    return found


def _pages(points: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """What `normalise` makes of each code point on its own: another one (_OWN where it is a word), a space, or _HARD.

    _HARD is what depends on its neighbours.
    """
    used = np.flatnonzero(np.bincount(points // _PAGE))
    place = np.zeros(used[-1] + 1, dtype=np.uint32)
    place[used] = np.arange(len(used), dtype=np.uint32) * _PAGE
    return np.concatenate([_page(int(page)) for page in used])[place[points // _PAGE] + points % _PAGE]


@cache
def _page(page: int) -> NDArray[np.uint32]:
    return np.array([_alone(chr(point)) for point in range(page * _PAGE, (page + 1) * _PAGE)], dtype=np.uint32)


def _alone(character: str) -> int:
    if "\ud800" <= character <= "\udfff":
        return _HARD
    form = unicodedata.normalize("NFKC", character)
    lower = form.lower()
    combines = unicodedata.category(form[0])[0] == "M" or "\u1100" <= form[0] <= "\u11ff" or form == "Σ"
    if combines or (character > "\uffff" and form[0].isalnum()):
        return _HARD
    if not any(map(str.isalnum, lower)):
        return ord(" ")
    if len(lower) > 1:
        return _HARD
    return ord(lower) | _OWN if _UNSPACED.match(lower) else ord(lower)
