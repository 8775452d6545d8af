"""How varied a corpus is: where it comes from, how long, in which words and languages, and how much of it says the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.language import identify
from llm_pipeline.curation.quality_view import Hashes, View
from llm_pipeline.curation.tally import batches

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
WINDOW = 1000
"""Words over which a type-token ratio is taken, so that short and long corpora compare (mean segmental TTR, Johnson 1944)."""
STEPS = 20
"""Points of the curve of vocabulary growth."""
MOST = 50_000
"""Documents that a report looks at."""
_CHUNK = 1_000_000


def sample(path: Path, names: Sequence[str], most: int = MOST) -> pa.Table:
    """These columns of a Parquet file; of more rows than `most` so many, evenly spread, so that a report costs the same for any corpus."""
    rows, done, parts = pq.read_metadata(path).num_rows, 0, []
    chosen = np.arange(min(rows, most)) * rows // max(1, min(rows, most))
    for table in batches(path, *names):
        start, end = np.searchsorted(chosen, [done, done + table.num_rows])
        parts.append(table.take(chosen[start:end] - done))
        done += table.num_rows
    return pa.concat_tables(parts) if parts else pq.read_table(path, columns=list(names))


def heterogeneity(table: pa.Table) -> dict[str, Any]:
    """The report of a table with id and text; what needs another column (source, kind, language, cluster_id) is left out without it."""
    texts = [text or "" for text in table["text"].to_pylist()]
    report: dict[str, Any] = {"documents": len(texts), "characters": _spread([len(text) for text in texts])}
    for name in ("source", "kind", "licence", "day"):
        if name in table.column_names:
            report[name] = _shares(table[name].to_pylist())
    languages = table["language"].to_pylist() if "language" in table.column_names else [code for code, _ in identify(texts)]
    report["language"] = _shares(languages)
    words, of_document = _words(texts)
    report["words"] = _spread(np.bincount(of_document, minlength=len(texts)).tolist())
    report["vocabulary"] = _vocabulary(words)
    if "source" in table.column_names:
        report["vocabulary"]["new_words"] = _new_words(words, of_document, [str(source) for source in table["source"].to_pylist()])
    if "cluster_id" in table.column_names:
        report["clusters"] = _diversity([str(cluster) for cluster in table["cluster_id"].to_pylist()])
    return report


def plots(report: Mapping[str, Any]) -> dict[str, Any]:
    """Matplotlib figures of a report by name: shares, lengths and the growth of the vocabulary."""
    figures = {name: _bars(name, report[name]["shares"]) for name in ("source", "kind", "language") if name in report}
    figures["words"] = _curve("words a document", "share of documents", report["words"]["quantiles"], QUANTILES)
    growth = report["vocabulary"]["growth"]
    figures["vocabulary"] = _curve("words read", "different words", [point[0] for point in growth], [point[1] for point in growth])
    return figures


def _spread(values: Sequence[int]) -> dict[str, Any]:
    if not values:
        return {"total": 0, "mean": 0.0, "quantiles": [0.0] * len(QUANTILES)}
    return {"total": sum(values), "mean": sum(values) / len(values), "quantiles": np.quantile(values, QUANTILES).tolist()}


def _shares(values: Sequence[Any]) -> dict[str, Any]:
    """Shares by value, the largest first, and how many equally large values would be as varied (the exponential of the entropy)."""
    counts = Counter("unknown" if value is None else str(value) for value in values)
    shares = {value: n / len(values) for value, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}
    return {"shares": shares, "effective_number": _effective_number(list(counts.values()))}


def _effective_number(counts: Sequence[int]) -> float:
    """Hill number of order 1 (Jost 2006): n for n equal shares, 1 for one value, 0 for none."""
    total = sum(counts)
    return math.exp(-sum(n / total * math.log(n / total) for n in counts)) if total else 0.0


def _diversity(clusters: Sequence[str]) -> dict[str, float]:
    counts = list(Counter(clusters).values())
    return {
        "clusters": len(counts),
        "share_of_documents": len(counts) / len(clusters) if clusters else 0.0,
        "effective_number": _effective_number(counts),
        "largest": max(counts, default=0),
    }


def _words(texts: Sequence[str]) -> tuple[Hashes, Any]:
    """All words by hash, and the document of each."""
    parts = [(view.token_hashes, view.tokens.doc + first) for first, view in _views(texts)]
    if not parts:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.concatenate([words for words, _ in parts]), np.concatenate([documents for _, documents in parts])


def _views(texts: Sequence[str]) -> Iterator[tuple[int, View]]:
    first, size = 0, 0
    for at, text in enumerate(texts):
        size += len(text)
        if size >= _CHUNK or at == len(texts) - 1:
            yield first, View(texts[first : at + 1])
            first, size = at + 1, 0


def _vocabulary(words: Hashes) -> dict[str, Any]:
    _, first = np.unique(words, return_index=True)
    new = np.zeros(len(words), np.int64)
    new[first] = 1
    grown = np.cumsum(new)
    at = sorted({max(1, len(words) * step // STEPS) for step in range(1, STEPS + 1)}) if len(words) else []
    windows = [len(np.unique(words[i : i + WINDOW])) / WINDOW for i in range(0, len(words) - WINDOW + 1, max(WINDOW, len(words) // 1000))]
    return {
        "words": len(words),
        "different": len(first),
        "type_token_ratio": float(np.mean(windows)) if windows else len(first) / len(words) if len(words) else 0.0,
        "growth": [(n, int(grown[n - 1])) for n in at],
    }


def _new_words(words: Hashes, documents: Any, sources: Sequence[str]) -> dict[str, float]:
    """By source, the share of its different words that no other source has."""
    names = sorted(set(sources))
    number = np.array([names.index(source) for source in sources], np.int64)[documents] if len(words) else np.empty(0, np.int64)
    pairs = np.unique(np.stack([words, number.astype(np.uint64)]), axis=1)
    _, inverse, counts = np.unique(pairs[0], return_inverse=True, return_counts=True)
    alone = counts[inverse] == 1
    own = pairs[1].astype(np.int64)
    total = np.bincount(own, minlength=len(names))
    only = np.bincount(own[alone], minlength=len(names))
    return {name: float(only[at] / total[at]) if total[at] else 0.0 for at, name in enumerate(names)}


def _bars(title: str, shares: Mapping[str, float]) -> Any:
    from matplotlib.figure import Figure

    shown = list(shares.items())[:15]
    figure = Figure(figsize=(6, 0.6 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in reversed(shown)], [share for _, share in reversed(shown)])
    axes.set(title=title, xlabel="share of documents", xlim=(0, 1))
    return figure


def _curve(x: str, y: str, xs: Sequence[float], ys: Sequence[float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(xs, ys, marker=".")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure
