"""Which documents are worth learning from: published heuristics, language and toxicity, each answer a (keep, reason) with its scores."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm_pipeline.config import load
from llm_pipeline.curation.ledger import Entry, ledger_table
from llm_pipeline.curation.poison import Finding, PoisonPolicy, find_poison
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.paths import DATA

STAGE = "filtered_documents"
POLICY = DATA / "policies" / "quality.yaml"
LONG_ENOUGH = 30
"""Words from which on ratios of repetition mean something."""
_STOP_WORDS = frozenset("the be to of and that have with".split())
_BOILERPLATE = re.compile(
    r"(use|uses|store|stores|our|accept|all|reject) cookies|cookie (policy|settings|preferences)|cookies (help|on your)"
    r"|terms of (use|service)|privacy (policy|notice)|all rights reserved|javascript|sitemap|subscribe to|newsletter|copyright|imprint"
    r"|log ?in|sign up|back to top|share this page|print this page|follow us|skip to (main )?content|accept all|manage preferences",
    re.I,
)
_SPEAKER = re.compile(r"(?m)^(Customer|Agent|System): ")
_LATIN_WORD = re.compile(r"[^\W\d_]{4,}")
_IMPLAUSIBLE = re.compile(
    r"[bcdfghjklmnpqrstvwxz]{6}|[aeiou]{5}|^[^aeiouyäöüáéíóúàèìòùâêîôûåøæãõ]+$|[^aeiou]*(?:qj|qz|jq|zx|xz|vq|qv|jx|xj|wq|qx|zq|vj|jz)"
)


@dataclass(frozen=True)
class Rule:
    """One limit on one score; `kinds` gives another limit for a kind of document (of `minimum` where there is one), null none."""

    source: str
    minimum: float | None = None
    maximum: float | None = None
    kinds: Mapping[str, float | None] = field(default_factory=dict)

    def limits(self, kind: str) -> tuple[float | None, float | None]:
        if kind not in self.kinds:
            return self.minimum, self.maximum
        own = self.kinds[kind]
        if own is None:
            return None, None
        return (own, self.maximum) if self.minimum is not None else (None, own)


@dataclass(frozen=True)
class LanguagePolicy:
    minimum_score: float = 0.5
    """A language that is not allowed counts only when the model is at least this sure."""


@dataclass(frozen=True)
class ToxicityPolicy:
    certain: float
    likely: float
    kinds: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class QualityPolicy:
    """data/policies/quality.yaml."""

    rules: Mapping[str, Rule]
    language: LanguagePolicy
    toxicity: ToxicityPolicy
    poison: PoisonPolicy

    def __post_init__(self) -> None:
        for name in self.rules:
            if name not in SCORES:
                raise ConfigError(f"quality policy: unknown rule {name!r}{near(name, SCORES)}")


def load_policy(path: Path = POLICY) -> QualityPolicy:
    return load(QualityPolicy, path)


@dataclass(frozen=True)
class View:
    """A text cut once for all rules."""

    text: str
    language: str
    words: tuple[str, ...]
    lines: tuple[str, ...]


def view(text: str, language: str = "en") -> View:
    plain = _SPEAKER.sub("", text)
    return View(plain, language, tuple(plain.split()), tuple(line.strip() for line in plain.split("\n") if line.strip()))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _lines_that(v: View, test: Callable[[str], Any]) -> float:
    return _share(sum(bool(test(line)) for line in v.lines), len(v.lines))


def _stop_words(v: View) -> float:
    if v.language != "en" or len(v.words) < LONG_ENOUGH:
        return float(len(_STOP_WORDS))
    return float(len(_STOP_WORDS & {word.strip(".,;:!?").lower() for word in v.words}))


def _unique_words(v: View) -> float:
    return len({word.lower() for word in v.words}) / len(v.words) if len(v.words) >= LONG_ENOUGH else 1.0


def _top_word_pair(v: View) -> float:
    if len(v.words) < LONG_ENOUGH:
        return 0.0
    pair, count = Counter(zip(v.words, v.words[1:], strict=False)).most_common(1)[0]
    return count * (len(pair[0]) + len(pair[1])) / sum(map(len, v.words)) if count > 2 else 0.0


def _duplicate_lines(v: View) -> float:
    return 1 - len(set(v.lines)) / len(v.lines) if len(v.lines) >= 4 else 0.0


def _boilerplate_words(v: View) -> float:
    if len(v.words) < 12:
        return 0.0
    pieces = [piece for line in v.lines for piece in re.split(r"(?<=[.!?|])\s+", line)]
    return _share(sum(len(piece.split()) for piece in pieces if _BOILERPLATE.search(piece)), len(v.words))


def _implausible_words(v: View) -> float:
    words = [word.lower() for word in _LATIN_WORD.findall(v.text) if word[0] < "\u0250" and not word.isupper()]
    return _share(sum(bool(_IMPLAUSIBLE.search(word)) for word in words), len(words)) if len(words) >= 4 else 0.0


SCORES: dict[str, Callable[[View], float]] = {
    "word_count": lambda v: float(len(v.words)),
    "mean_word_length": lambda v: _share(sum(map(len, v.words)), len(v.words)),
    "alphabetic_words": lambda v: _share(sum(any(c.isalpha() for c in word) for word in v.words), len(v.words)),
    "symbol_ratio": lambda v: _share(v.text.count("#") + v.text.count("...") + v.text.count("…"), len(v.words)),
    "bullet_lines": lambda v: _lines_that(v, lambda line: line.startswith(("-", "*", "•", "‣"))),
    "ellipsis_lines": lambda v: _lines_that(v, lambda line: line.endswith(("...", "…"))) if len(v.lines) > 2 else 0.0,
    "stop_words": _stop_words,
    "duplicate_lines": _duplicate_lines,
    "unique_words": _unique_words,
    "top_word_pair": _top_word_pair,
    "punctuated_lines": lambda v: _lines_that(v, lambda line: line.endswith((".", "!", "?", '"', "”", "。", "؟", "।", ":"))),
    "boilerplate_words": _boilerplate_words,
    "lorem_ipsum": lambda v: float("lorem ipsum" in v.text.lower()),
    "implausible_words": _implausible_words,
}


def score(text: str, language: str = "en") -> dict[str, float]:
    """All quality scores of a text, by rule name."""
    seen = view(text, language)
    return {name: round(function(seen), 6) for name, function in SCORES.items()}


def judge(scores: Mapping[str, float], kind: str, rules: Mapping[str, Rule]) -> tuple[bool, str]:
    """(True, "") or (False, the first rule that the scores break)."""
    for name, rule in rules.items():
        least, most = rule.limits(kind)
        if (least is not None and scores[name] < least) or (most is not None and scores[name] > most):
            return False, name
    return True, ""


def language_allowed(language: str, certainty: float, allowed: Sequence[str], policy: LanguagePolicy) -> tuple[bool, str]:
    """Keep what is in an allowed language (an empty list allows all) and what the model is unsure about, such as code."""
    if allowed and language not in allowed and certainty >= policy.minimum_score:
        return False, "language_not_allowed"
    return True, ""


@cache
def _word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + r")(?!\w)", re.I)


def toxicity(texts: Sequence[str], policy: ToxicityPolicy) -> list[float]:
    """How toxic the worst line of each text is: the probability of alt-profanity-check, 0 when the policy's two conditions do not hold."""
    lines = [(i, line) for i, text in enumerate(texts) for line in _SPEAKER.sub("", text).split("\n") if line.strip()]
    worst = [0.0] * len(texts)
    if not lines:
        return worst
    predict_prob: Any = importlib.import_module("profanity_check").predict_prob
    listed = _word_pattern(policy.words)
    for (i, line), probability in zip(lines, predict_prob([line for _, line in lines]), strict=True):
        if probability >= policy.certain or (probability >= policy.likely and listed.search(line)):
            worst[i] = max(worst[i], round(float(probability), 6))
    return worst


def scan(documents: pa.Table, policy: QualityPolicy) -> list[dict[str, float]]:
    """The scores of every document, in order, by one pass of the corpus engine (Daft, native runner)."""
    import daft

    names = [*SCORES, "toxicity"]
    dtype = daft.DataType.struct({name: daft.DataType.float64() for name in names})

    @daft.func.batch(return_dtype=dtype)
    def scores_of(text: daft.Series, language: daft.Series, kind: daft.Series) -> Any:
        texts, kinds = text.to_pylist(), kind.to_pylist()
        judged = [i for i, k in enumerate(kinds) if k in policy.toxicity.kinds]
        toxic = dict(zip(judged, toxicity([texts[i] for i in judged], policy.toxicity), strict=True))
        return [
            {**score(t, lang), "toxicity": toxic.get(i, 0.0)} for i, (t, lang) in enumerate(zip(texts, language.to_pylist(), strict=True))
        ]

    if not documents.num_rows:
        return []
    numbered = documents.select(["text", "language", "kind"]).append_column("at", pa.array(range(documents.num_rows), pa.int64()))
    frame = daft.from_arrow(numbered)
    frame = frame.select(daft.col("at"), scores_of(daft.col("text"), daft.col("language"), daft.col("kind")).alias("scores"))
    return list(frame.to_arrow().sort_by("at")["scores"].to_pylist())


def filter_documents(
    documents: pa.Table, day: str, policy: QualityPolicy, languages: Mapping[str, Sequence[str]] | None = None
) -> tuple[pa.Table, pa.Table]:
    """(kept documents with one float column per score, ledger); `languages` are the allowed ones per source.

    The order is poison (quarantined), language, quality, toxicity (removed); a document is counted under the first that it breaks.
    """
    rows = documents.select(
        [n for n in ("id", "uri", "row", "source", "kind", "language", "language_score") if n in documents.column_names]
    ).to_pylist()
    scores = scan(documents, policy)
    poison = find_poison(documents, policy.poison)
    keep: list[bool] = []
    entries: list[Entry] = []
    for row, found in zip(rows, scores, strict=True):
        entry = _verdict(row, found, poison.get(row["id"]), (languages or {}).get(row["source"], ()), policy)
        keep.append(entry is None)
        entries += [entry] if entry else []
    kept = documents.filter(pa.array(keep, pa.bool_()))
    for name in (*SCORES, "toxicity"):
        kept = kept.append_column(name, pa.array([s[name] for s, k in zip(scores, keep, strict=True) if k], pa.float64()))
    return kept, ledger_table(day, entries)


def _verdict(
    row: Mapping[str, Any], scores: Mapping[str, float], poison: Finding | None, allowed: Sequence[str], policy: QualityPolicy
) -> Entry | None:
    """Why a document is not kept, or None."""
    if poison and not (poison.rule == "trigger_phrase" and scores["toxicity"] > 0):
        return Entry(row["id"], row["uri"], row["row"], STAGE, poison.rule, "quarantined", poison.score, poison.detail)
    keep, rule = language_allowed(row["language"], row["language_score"], allowed, policy.language)
    if not keep:
        return Entry(row["id"], row["uri"], row["row"], STAGE, rule, "removed", row["language_score"], row["language"])
    keep, rule = judge(scores, row["kind"], policy.rules)
    if not keep:
        return Entry(row["id"], row["uri"], row["row"], STAGE, rule, "removed", scores[rule], policy.rules[rule].source[:80])
    if scores["toxicity"] > 0:
        return Entry(row["id"], row["uri"], row["row"], STAGE, "toxic", "removed", scores["toxicity"], "")
    return None
