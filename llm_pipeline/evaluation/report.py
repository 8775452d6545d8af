"""The report on one model's scored rows: figures with intervals, slices, spread and worst examples, as data and as a page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llm_pipeline.evaluation.compare import LEVEL, score_interval
from llm_pipeline.evaluation.report_page import Bar, bars, facts_line, histogram, page
from llm_pipeline.evaluation.slices import by_slice

Row = Mapping[str, Any]
WORST = 8

_TEMPLATE = """<p class="faint">{{ facts }}{{ ". " if facts }}Intervals: {{ level }}%; Wilson for scores of 0 and 1, else bootstrap.</p>
<h2>Figures</h2>{{ chart }}
<div class="wide"><table>
<tr>{% for head in ["suite", "metric", "n", "mean", "interval", "spread"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for f in figures %}<tr><td>{{ f.suite }}</td><td>{{ f.metric }}{{ " (lower is better)" if f.metric in lower }}</td><td class="number">{{ f.n }}</td>
<td class="number">{{ f.mean | figure }}</td><td class="number">[{{ f.low | figure }}, {{ f.high | figure }}]</td><td>{{ f.spread }}</td></tr>{% endfor %}
</table></div>
<h2>Slices</h2>{% if not slices %}<p class="faint">The rows have none with more than one value.</p>{% endif %}
{% for (suite, metric), lines in slices.items() %}<details{{ " open" if loop.first }}><summary>{{ suite }} {{ metric }}</summary><div class="wide"><table>
<tr>{% for head in ["slice", "value", "n", "mean", "interval"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for s in lines %}<tr><td>{{ s.slice }}</td><td>{{ s.value }}</td><td class="number">{{ s.n }}</td><td class="number">{{ s.mean | figure }}</td>
<td class="number">[{{ s.low | figure }}, {{ s.high | figure }}]</td></tr>{% endfor %}</table></div></details>{% endfor %}
<h2>Worst examples</h2>
{% for (suite, metric), rows in worst.items() %}<details{{ " open" if loop.first }}><summary>{{ suite }} {{ metric }}</summary><div class="wide"><table>
<tr>{% for head in ["id", "score", "question", "expected", "answer"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in rows %}<tr><td>{{ row.id }}</td><td class="number">{{ row.score | float | figure }}</td><td>{{ row.question | clipped }}</td>
<td>{{ row.reference | clipped }}</td><td class="wrong">{{ row.answer | clipped }}</td></tr>{% endfor %}</table></div></details>
{% else %}<p class="faint">None: no answer could have scored better.</p>{% endfor %}"""  # noqa: E501


def summarise_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """`{"figures": [{suite, metric, n, mean, low, high}], "slices": [{suite, metric, slice, value, n, mean, low, high}]}`.

    Rows are {suite, id, metric, score, ...}; a score of None does not count. `low` and `high` bound the mean at `LEVEL`.
    """
    groups = _groups(rows)
    figures = [{"suite": suite, "metric": metric} | _interval(group) for (suite, metric), group in groups.items()]
    slices = [
        {"suite": suite, "metric": metric, "slice": name, "value": value} | _interval(part)
        for (suite, metric), group in groups.items()
        for (name, value), part in by_slice(group).items()
    ]
    return {"figures": figures, "slices": slices}


def render_rows(
    rows: Sequence[Row], title: str, *, facts: Mapping[str, object] | None = None, lower_is_better: Collection[str] = ()
) -> str:
    """The rows of one model as a self-contained page; `facts` (model, prompt, date, ...) stand below the title.

    Rows also hold question, answer and reference (for the worst examples), and slices; all of them may be absent.
    """
    summary, groups = summarise_rows(rows), _groups(rows)
    figures = [f | {"spread": _spread(groups[f["suite"], f["metric"]])} for f in summary["figures"]]
    shares = [Bar(f"{f['suite']} · {f['metric']}", f["mean"], f["low"], f["high"]) for f in figures if _is_share(f)]
    slices: dict[tuple[str, str], list[Row]] = {}
    for line in summary["slices"]:
        slices.setdefault((line["suite"], line["metric"]), []).append(line)
    return page(
        title,
        _TEMPLATE,
        facts=facts_line(facts or {}),
        level=f"{100 * LEVEL:.0f}",
        chart=bars(shares, "mean score per suite and metric") if shares else "",
        figures=figures,
        lower=set(lower_is_better),
        slices=slices,
        worst={key: found for key, group in groups.items() if (found := worst_rows(group, key[1] in lower_is_better))},
    )


def worst_rows(rows: Sequence[Row], lower_is_better: bool = False, limit: int = WORST) -> list[dict[str, Any]]:
    """The rows of one metric that scored worst, without those that scored as well as the best one."""
    scores = [float(row["score"]) for row in rows]
    best, sign = (min(scores), -1) if lower_is_better else (max(scores), 1)
    ceiling = best if lower_is_better or best > 1 else 1.0
    wrong = [row for row, score in zip(rows, scores, strict=True) if score != ceiling]
    chosen = sorted(wrong, key=lambda row: (sign * float(row["score"]), str(row["id"])))[:limit]
    return [{name: row.get(name) for name in ("id", "score", "question", "reference", "answer")} for row in chosen]


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("score") is not None:
            suite = "/".join(str(row[name]) for name in ("suite", "mode") if row.get(name))
            groups.setdefault((suite, str(row["metric"])), []).append(row)
    return groups


def _interval(rows: Sequence[Row]) -> dict[str, Any]:
    found = score_interval([float(row["score"]) for row in rows])
    return {"n": found.n, "mean": round(found.mean, 6), "low": round(found.low, 6), "high": round(found.high, 6)}


def _spread(rows: Sequence[Row]) -> Any:
    scores = [float(row["score"]) for row in rows]
    return histogram(scores) if len(set(scores)) > 2 else ""


def _is_share(line: Mapping[str, Any]) -> bool:
    return bool(line["low"] >= 0 and line["high"] <= 1)
