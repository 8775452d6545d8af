"""Which documents are worth learning from: published heuristics, toxicity, language and poison, each answer a reason with its scores.

One engine judges a table of any corpus (`filter_batches`) and a day of the pipeline (`filter_documents`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llm_pipeline.curation.engine import map_chunks
from llm_pipeline.curation.language import identify
from llm_pipeline.curation.ledger import Entry, ledger_table
from llm_pipeline.curation.poison import findings
from llm_pipeline.curation.poison_corpus import CorpusPoison, survey
from llm_pipeline.curation.poison_policy import QUARANTINED, RULES, Finding
from llm_pipeline.curation.quality_lexicon import lexicon
from llm_pipeline.curation.quality_policy import POLICY, RULED, LanguagePolicy, QualityPolicy, Rule, load_policy
from llm_pipeline.curation.quality_scores import quality_scores
from llm_pipeline.curation.quality_view import Bools, Floats, View
from llm_pipeline.curation.toxicity import toxicity

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches

__all__ = ["POLICY", "SCORES", "QualityPolicy", "filter_batches", "filter_documents", "judge", "load_policy"]
STAGE = "filtered_documents"
SCORES = (*RULED, "toxicity", "bias_terms", *RULES)
"""The score columns, in order; the last ones are those of poison, 0 for none."""
CHUNK = 500_000
"""Characters that are judged at once: arrays of this length stay in the processor's cache."""
EVIDENTLY_ENGLISH = 4
"""Different ones of Gopher's eight stop words from which on nobody need ask for the language."""
_SPEAKER = re.compile(r"(?m)^(Customer|Agent|System): ")


@dataclass(frozen=True)
class Verdicts:
    """Scores, reasons ("" to keep) and findings of the rows of a table, in order."""

    scores: Mapping[str, Floats]
    reasons: Sequence[str]
    findings: Mapping[int, Finding]


def filter_batches(batches: Batches, policy: QualityPolicy) -> Iterator[pa.Table]:
    """Tables of id, keep, reason and one float column per score, a row for every row that came in, in its order."""
    corpus = survey(batches, policy.poison)
    for table in batches():
        verdicts = verdicts_of(table, policy, corpus)
        columns = {
            "id": table["id"],
            "keep": pa.array([not reason for reason in verdicts.reasons], pa.bool_()),
            "reason": pa.array(verdicts.reasons, pa.string()),
        }
        yield pa.table({**columns, **{name: _column(values) for name, values in verdicts.scores.items()}})


def filter_documents(
    documents: pa.Table, day: str, policy: QualityPolicy, languages: Mapping[str, Sequence[str]] | None = None
) -> tuple[pa.Table, pa.Table]:
    """(kept documents with one float column per score, ledger); `languages` are the allowed ones per source."""
    corpus = survey(lambda: iter([documents]), policy.poison)
    kept, ledger = map_chunks(lambda chunk: _filter_chunk(chunk, day, policy, corpus, languages), documents)
    return kept, ledger


def _filter_chunk(
    documents: pa.Table, day: str, policy: QualityPolicy, corpus: CorpusPoison, languages: Mapping[str, Sequence[str]] | None
) -> tuple[pa.Table, pa.Table]:
    verdicts = verdicts_of(documents, policy, corpus, languages)
    rows = documents.select(["id", "uri", "row", "language", "language_score"]).to_pylist()
    entries = [_entry(row, at, verdicts, policy) for at, row in enumerate(rows) if verdicts.reasons[at]]
    keep = np.array([not reason for reason in verdicts.reasons], np.bool_)
    kept = documents.filter(pa.array(keep))
    for name, values in verdicts.scores.items():
        kept = kept.append_column(name, _column(values[keep]))
    return kept, ledger_table(day, entries)


def _column(values: Floats) -> Any:
    return pa.array(np.round(values, 6), pa.float64(), from_pandas=True)


def _entry(row: Mapping[str, Any], at: int, verdicts: Verdicts, policy: QualityPolicy) -> Entry:
    rule = verdicts.reasons[at]
    where = (row["id"], row["uri"], row["row"], STAGE, rule)
    if rule in QUARANTINED:
        return Entry(*where, "quarantined", verdicts.findings[at].score, verdicts.findings[at].detail)
    if rule == "language_not_allowed":
        return Entry(*where, "removed", row["language_score"], row["language"])
    if rule == "toxic":
        return Entry(*where, "removed", round(float(verdicts.scores["toxicity"][at]), 6), "")
    return Entry(*where, "removed", round(float(verdicts.scores[rule][at]), 6), policy.rules[rule].source[:80])


def verdicts_of(
    table: pa.Table, policy: QualityPolicy, corpus: CorpusPoison, languages: Mapping[str, Sequence[str]] | None = None
) -> Verdicts:
    """Poison comes first, then language, quality and toxicity: a document counts under the first that it breaks."""
    parts = [_scored(table.slice(first, last - first), policy) for first, last in chunks(_strings(table, "text"))]
    scores = {name: np.concatenate([np.empty(0), *(part[name] for part, _ in parts)]) for name in SCORES}
    found, first = {**corpus.findings(table), **_in_titles(table, policy)}, 0
    for part, findings_of_part in parts:
        found |= {first + at: finding for at, finding in findings_of_part.items()}
        first += len(part["word_count"])
    for at, finding in found.items():
        scores[finding.rule][at] = finding.score
    reasons = judge(scores, _strings(table, "kind"), policy.rules)
    reasons = np.where((reasons == "") & (scores["toxicity"] > 0), "toxic", reasons)
    if languages is not None:
        reasons = np.where(_not_allowed(table, languages, policy.language), "language_not_allowed", reasons)
    for at, finding in found.items():
        if not (finding.rule == "trigger_phrase" and scores["toxicity"][at] > 0):
            reasons[at] = finding.rule
    return Verdicts(scores, reasons.tolist(), found)


def _scored(table: pa.Table, policy: QualityPolicy) -> tuple[dict[str, Floats], dict[int, Finding]]:
    """The scores of some rows, and what their texts are suspected of."""
    kinds = _strings(table, "kind")
    texts = [_SPEAKER.sub("", text) if kind == "conversation" else text for text, kind in zip(_strings(table, "text"), kinds, strict=True)]
    view = View(texts)
    scores = quality_scores(view)
    scores["language_certainty"] = _language_certainty(scores, texts, kinds, table, policy)
    judged = [kind not in policy.toxicity.exempt for kind in kinds] & ~np.isnan(scores["stop_words"])
    scores["toxicity"] = toxicity(view, judged, policy.toxicity)
    scores["bias_terms"] = lexicon(policy.bias_words).counts(view).astype(np.float64)
    return {**scores, **{rule: np.zeros(view.count) for rule in RULES}}, findings(view, policy.poison)


def _strings(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        return [""] * table.num_rows
    return [str(value or "") for value in table[name].to_pylist()]


def chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Runs of rows with some CHUNK characters, at least one row each."""
    first, size = 0, 0
    for at, text in enumerate(texts):
        if at > first and size + len(text) > CHUNK:
            yield first, at
            first, size = at, 0
        size += len(text)
    if texts:
        yield first, len(texts)


def _in_titles(table: pa.Table, policy: QualityPolicy) -> dict[int, Finding]:
    return findings(View(_strings(table, "title")), policy.poison) if "title" in table.column_names else {}


def _language_certainty(
    scores: Mapping[str, Floats], texts: Sequence[str], kinds: Sequence[str], table: pa.Table, policy: QualityPolicy
) -> Floats:
    """How sure a text's language is; null where the stop words say that it is English, or an earlier rule has decided.

    English stop words say nothing about texts that are surely in another language: there their score becomes null.
    """
    stop_words = scores["stop_words"]
    certainty = np.full(len(texts), np.nan)
    rules = [policy.rules[name] for name in ("stop_words", "language_certainty") if name in policy.rules]
    asked = {kind for kind in set(kinds) if any(rule.limits(kind) != (None, None) for rule in rules)}
    earlier = dict(takewhile(lambda rule: rule[0] not in ("stop_words", "language_certainty"), policy.rules.items()))
    open_still = (judge(scores, kinds, earlier) == "") & (stop_words < EVIDENTLY_ENGLISH)
    unclear = [at for at in np.flatnonzero(open_still).tolist() if kinds[at] in asked]
    known = dict(zip(unclear, _known_languages(table, texts, unclear), strict=True))
    for at, (language, score) in known.items():
        certainty[at] = score
        if language not in ("en", "und") and score >= policy.language.minimum_score:
            stop_words[at] = np.nan
    return certainty


def _known_languages(table: pa.Table, texts: Sequence[str], rows: Sequence[int]) -> list[tuple[str, float]]:
    if "language" not in table.column_names:
        return identify([texts[at] for at in rows])
    languages = _strings(table, "language")
    scores = table["language_score"].to_pylist() if "language_score" in table.column_names else [1.0] * len(texts)
    return [(languages[at] or "und", float(scores[at] or 0.0)) for at in rows]


def judge(scores: Mapping[str, Floats], kinds: Sequence[str], rules: Mapping[str, Rule]) -> Any:
    """The first rule that each document breaks, or "" (an array of strings); a score that is not a number breaks none."""
    reasons = np.full(len(kinds), "", dtype=object)
    of_kind = {kind: np.array([k == kind for k in kinds], np.bool_) for kind in set(kinds)}
    for name, rule in reversed(list(rules.items())):
        for kind, chosen in of_kind.items():
            least, most = rule.limits(kind)
            values = scores[name]
            broken = np.zeros(len(kinds), np.bool_)
            if least is not None:
                broken |= values < least
            if most is not None:
                broken |= values > most
            reasons[broken & chosen] = name
    return reasons


def _not_allowed(table: pa.Table, languages: Mapping[str, Sequence[str]], policy: LanguagePolicy) -> Bools:
    rows = zip(*(table[name].to_pylist() for name in ("source", "language", "language_score")), strict=True)
    return np.array([not language_allowed(code, score, languages.get(source, ()), policy) for source, code, score in rows], np.bool_)


def language_allowed(language: str, certainty: float, allowed: Sequence[str], policy: LanguagePolicy) -> bool:
    """Keep what is in an allowed language (an empty list allows all) and what the model is unsure about, such as code."""
    return not allowed or language in allowed or certainty < policy.minimum_score
