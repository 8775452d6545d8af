"""The evaluation report: one HTML file that needs no network, readable in light and dark, with every figure's interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

_COLOURS = {"base": "#8a8f98", "candidate": "#2f7ed8", "champion": "#d08a1d"}
_WORST, _SIDE_BY_SIDE, _PASSAGE_CHARACTERS = 12, 12, 300

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation report</title>
<style>
:root { color-scheme: light dark; --ink: #1d2129; --faint: #6b7280; --line: #d7dbe0; --page: #ffffff; --good: #1a7f37; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #9aa3af; --line: #3a4048; --page: #15181d; --good: #4cc26b; --bad: #ff7b6b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; } td.number { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.right { color: var(--good); } .wrong { color: var(--bad); } .faint { color: var(--faint); }
svg text { fill: var(--ink); font-size: 12px; } svg line { stroke: var(--faint); } details { margin: .2rem 0; }
</style></head><body>
<h1>Evaluation report</h1>
<p class="faint">{% for name, id in models.items() %}{{ name }} <code>{{ id }}</code>{{ ", " if not loop.last }}{% endfor %} &middot;
index <code>{{ index or "none" }}</code> &middot; suites <code>{{ suites }}</code> &middot; prompt <code>{{ prompt }}</code>
&middot; primary suite {{ primary }}. Intervals: 90%, bootstrap, 2,000 resamples.</p>
<h2>Exact match</h2>
{{ chart }}
<h2>All figures</h2><div class="wide"><table>
<tr>{% for head in ["suite", "model", "mode", "n", "exact match [90%]", "ROUGE-L", "refused", "grounded", "stopped", "perplexity"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for r in results %}<tr><td>{{ r.suite }}</td><td>{{ r.model }}</td><td>{{ r.mode }}</td><td class="number">{{ r.n }}</td>
<td class="number">{{ r.em | share }} [{{ r.em_low | share }}, {{ r.em_high | share }}]</td><td class="number">{{ r.rouge_l | share }}</td>
<td class="number">{{ r.refusal | share }}</td><td class="number">{{ r.groundedness | share }}</td><td class="number">{{ r.finished | share }}</td>
<td class="number">{{ "%.2f" | format(r.perplexity) }}</td></tr>{% endfor %}
</table></div>
<h2>Refusals over all suites</h2><table><tr><th>model</th><th>mode</th><th>precision</th><th>recall</th></tr>
{% for r in refusals %}<tr><td>{{ r.model }}</td><td>{{ r.mode }}</td><td class="number">{{ r.precision | share }}</td><td class="number">{{ r.recall | share }}</td></tr>{% endfor %}
</table>
<h2>Side by side</h2><div class="wide"><table>
<tr><th>suite</th><th>question</th><th>expected</th>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for line in side %}<tr><td>{{ line.suite }}</td><td>{{ line.question }}</td><td>{{ line.reference }}</td>
{% for cell in line.cells %}<td class="{{ "right" if cell and cell.em else "wrong" }}">{{ cell.answer if cell else "" }}</td>{% endfor %}</tr>{% endfor %}
</table></div>
<h2>Worst answers of the candidate</h2><div class="wide"><table>
<tr><th>suite</th><th>mode</th><th>question</th><th>expected</th><th>answer</th><th>loss</th></tr>
{% for row in worst %}<tr><td>{{ row.suite }}</td><td>{{ row.mode }}</td><td>{{ row.question }}
{% if row.passages %}<details><summary class="faint">passages</summary>{% for p in row.passages %}<p class="faint">{{ p.uri }}: {{ p.text[:characters] }}</p>{% endfor %}</details>{% endif %}</td>
<td>{{ row.reference }}</td><td class="wrong">{{ row.answer }}</td><td class="number">{{ "%.2f" | format(row.nll) }}</td></tr>{% else %}<tr><td colspan="6">none: every answer was right</td></tr>{% endfor %}
</table></div></body></html>
"""  # noqa: E501


def render(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The report as HTML; every text from outside is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.3f}"
    columns, side = side_by_side(rows, report["primary"])
    return environment.from_string(_TEMPLATE).render(
        **{name: report[name] for name in ("models", "index", "suites", "prompt", "primary", "results", "refusals")},
        chart=Markup(chart(report["results"])),
        columns=columns,
        side=side,
        worst=worst(rows),
        characters=_PASSAGE_CHARACTERS,
    )


def worst(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The candidate's wrong answers whose reference it found least likely."""
    wrong = [row for row in rows if row["model"] == "candidate" and not row["em"]]
    return sorted(wrong, key=lambda row: (-row["nll"], row["suite"], row["id"]))[:_WORST]


def side_by_side(rows: Sequence[Mapping[str, Any]], primary: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Some questions of every suite, most of the primary one, with the answer of each (model, mode)."""
    names = list(dict.fromkeys((row["model"], row["mode"]) for row in rows))
    answers: dict[tuple[str, str], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in rows:
        answers.setdefault((row["suite"], row["id"]), {})[row["model"], row["mode"]] = row
    taken: dict[str, int] = {}
    lines = []
    for (suite, _), cells in answers.items():
        taken[suite] = taken.get(suite, 0) + 1
        if taken[suite] <= (_SIDE_BY_SIDE if suite == primary else _SIDE_BY_SIDE // 3):
            row = next(iter(cells.values()))
            one = {"suite": suite, "question": row["question"], "reference": row["reference"]}
            lines.append(one | {"cells": [cells.get(name) for name in names]})
    return [f"{model}, {mode}" for model, mode in names], lines


def chart(results: Sequence[Mapping[str, Any]]) -> str:
    """Horizontal bars of exact match with whiskers, grouped by suite, as inline SVG; retrieval modes are hatched lighter."""
    import html

    parts, y, left, width = [], 8, 270, 560
    last = None
    for result in results:
        y += 14 if last not in (None, result["suite"]) else 0
        last = result["suite"]
        label = html.escape(f"{result['suite']} · {result['model']} · {result['mode']}")
        low, high, em = (left + width * result[name] for name in ("em_low", "em_high", "em"))
        opacity = 1 if result["mode"] == "closed" else 0.6
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>'
            f'<rect x="{left}" y="{y + 2}" width="{max(1.0, em - left):.1f}" height="14" fill="{_COLOURS.get(result["model"], "#777")}" '
            f'opacity="{opacity}"/><line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 9}" y2="{y + 9}" stroke-width="2"/>'
            f'<text x="{high + 6:.1f}" y="{y + 13}">{result["em"]:.2f}</text>'
        )
        y += 20
    return (
        f'<svg viewBox="0 0 {left + width + 50} {y + 8}" width="100%" role="img" aria-label="exact match per suite">{"".join(parts)}</svg>'
    )
