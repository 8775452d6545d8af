"""Hashes of words, shingles and signatures against their plain definitions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.signatures import Shingled, jaccard, normalise, shingle, shingles, sign, signature_matrix
from llm_pipeline.curation.word_hashes import CHARACTERS, groups, word_hashes

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=8)
words = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), min_size=1, max_size=8)


def hashed(texts: list[str]) -> list[list[int]]:
    found = []
    for group in groups(pa.array(texts, pa.string())):
        result = word_hashes(group)
        found += [result.hashes[start:end].tolist() for start, end in zip(result.bounds[:-1], result.bounds[1:], strict=True)]
    return found


def shingled(texts: list[str]) -> Shingled:
    [group] = groups(pa.array(texts, pa.string()))
    return shingle(word_hashes(group))


@settings(max_examples=300, deadline=None)
@given(texts)
@example(["ＡＢＣ １２", "ﬁne ½ Œuvre", "ΟΔΟΣ ὈΔΥΣΣΕΎΣ", "e\u0301te\u0301", "été", "ｶﾞ ガ カ\u3099"])
@example(["\u1112\u1161\u11ab 한", "𝐀b 𐐀 İ ß", "हिन्दी में", "a´b…c"])
@example(["北京市 东京tower3号", "カタカナ ｱｲ ー々", "ภาษาไทย ไม่มี", "ខ្មែរ a", "𠀀b 한국어 中"])
@example(["", " ", "\0", "a\0b", "x" * 70 + "y", "x" * 71, "12345678 123456789", "_a_ B-c\nD"])
def test_words_are_equal_exactly_when_their_normal_forms_are(texts: list[str]) -> None:
    expected = [normalise(text).split() for text in texts]
    found = hashed(texts)
    assert [len(line) for line in found] == [len(line) for line in expected]
    by_hash = {hash_: word for line, hashes in zip(expected, found, strict=True) for word, hash_ in zip(line, hashes, strict=True)}
    by_word = {word: hash_ for hash_, word in by_hash.items()}
    assert found == [[by_word[word] for word in line] for line in expected]


@settings(deadline=None)
@given(texts)
def test_what_is_normalised_stays(texts: list[str]) -> None:
    for text in texts:
        once = normalise(text)
        assert hashed([text]) == hashed([once])


def test_groups_hold_all_texts_in_order() -> None:
    many = [f"{i} " * (i % 50) for i in range(300)]
    column = pa.chunked_array([pa.array([], pa.string()), pa.array(many[:100]), pa.array(many[100:])])
    found = list(groups(column))
    assert [text for group in found for text in group.to_pylist()] == many
    large = list(groups(pa.array([None, "x" * (CHARACTERS - 1), "y", "z" * CHARACTERS, ""])))
    assert [len(group) for group in large] == [2, 1, 2]


@settings(deadline=None)
@given(words)
def test_shingles_and_text_hashes_follow_their_definitions(texts: list[str]) -> None:
    found = shingled(texts)
    sets = [set(found.hashes[start:end].tolist()) for start, end in zip(found.bounds[:-1], found.bounds[1:], strict=True)]
    plain = [shingles(normalise(text)) for text in texts]
    for i, text in enumerate(texts):
        assert (found.text_hashes[i] == 0) == (normalise(text) == "")
        for j, other in enumerate(texts):
            assert (found.text_hashes[i] == found.text_hashes[j]) == (normalise(text) == normalise(other))
            assert len(sets[i] & sets[j]) == len(plain[i] & plain[j])


def test_the_share_of_equal_numbers_estimates_the_similarity() -> None:
    base = [f"w{i}" for i in range(300)]
    for shift in (10, 60, 150):
        a, b = " ".join(base), " ".join([*base[shift:], *[f"x{i}" for i in range(shift)]])
        first, second = signature_matrix(sign(["a", "b"], [a, b]))
        expected = jaccard(shingles(a), shingles(b))
        assert abs((first == second).mean() - expected) < 4 * (expected * (1 - expected) / 128) ** 0.5


def test_signature_of_text_without_words_is_marked() -> None:
    table = sign(["a", "b"], ["!!!", "one two three four five six"])
    assert table["text_hash"].to_pylist()[0] == 0
    assert set(signature_matrix(table)[0]) == {np.iinfo(np.uint32).max}
    assert sign([], []).num_rows == 0


def test_stored_signatures_stay_valid() -> None:
    table = sign(["a"], ["The quick brown fox jumps over the lazy dog, Ελλάδα 北京."])
    assert table["text_hash"].to_pylist() == [1383900614443607549]
    assert signature_matrix(table)[0, :3].tolist() == [1996552778, 41861725, 270985095]
