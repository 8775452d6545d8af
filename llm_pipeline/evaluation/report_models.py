"""The evaluation report on base, candidate and champion: one HTML file that needs no network, every figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from llm_pipeline.evaluation.compare import LEVEL
from llm_pipeline.evaluation.report_page import Bar, bars, page

_COLOURS = {"base": "#8a8f98", "candidate": "#2f7ed8", "champion": "#d08a1d"}
_WORST, _SIDE_BY_SIDE, _PASSAGE_CHARACTERS = 12, 12, 300

_TEMPLATE = """<p class="faint">{% for name, id in models.items() %}{{ name }} <code>{{ id }}</code>{{ ", " if not loop.last }}{% endfor %} &middot;
index <code>{{ index or "none" }}</code> &middot; suites <code>{{ suites }}</code> &middot; prompt <code>{{ prompt }}</code>
&middot; primary suite {{ primary }}. Intervals: {{ level }}%, bootstrap, 2,000 resamples.</p>
<h2>Exact match</h2>
{{ chart }}
<h2>All figures</h2><div class="wide"><table>
<tr>{% for head in ["suite", "model", "mode", "n", "exact match", "ROUGE-L", "refused", "grounded", "stopped", "perplexity"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for r in results %}<tr><td>{{ r.suite }}</td><td>{{ r.model }}</td><td>{{ r.mode }}</td><td class="number">{{ r.n }}</td>
<td class="number">{{ r.em | share }} [{{ r.em_low | share }}, {{ r.em_high | share }}]</td><td class="number">{{ r.rouge_l | share }}</td>
<td class="number">{{ r.refusal | share }}</td><td class="number">{{ r.groundedness | share }}</td><td class="number">{{ r.finished | share }}</td>
<td class="number">{{ "%.2f" | format(r.perplexity) }}</td></tr>{% endfor %}
</table></div>
<h2>Refusals over all suites</h2><table><tr><th>model</th><th>mode</th><th>precision</th><th>recall</th></tr>
{% for r in refusals %}<tr><td>{{ r.model }}</td><td>{{ r.mode }}</td><td class="number">{{ r.precision | share }}</td><td class="number">{{ r.recall | share }}</td></tr>{% endfor %}
</table>
<h2>Slices of the candidate's exact match</h2><details open><summary class="faint">{{ slices | length }} slices</summary><div class="wide"><table>
<tr>{% for head in ["suite", "slice", "value", "n", "exact match"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for s in slices %}<tr><td>{{ s.suite }}</td><td>{{ s.slice }}</td><td>{{ s.value }}</td><td class="number">{{ s.n }}</td>
<td class="number">{{ s.mean | share }} [{{ s.low | share }}, {{ s.high | share }}]</td></tr>{% endfor %}
</table></div></details>
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
</table></div>"""  # noqa: E501


def render(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The report as HTML; every text from outside is escaped."""
    columns, side = side_by_side(rows, report["primary"])
    return page(
        "Evaluation report",
        _TEMPLATE,
        **{name: report[name] for name in ("models", "index", "suites", "prompt", "primary", "results", "refusals", "slices")},
        level=f"{100 * LEVEL:.0f}",
        chart=chart(report["results"]),
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


def chart(results: Sequence[Mapping[str, Any]]) -> Markup:
    """Exact match per suite, model and mode; answers over passages are paler."""
    lines = [
        Bar(
            f"{r['suite']} · {r['model']} · {r['mode']}",
            r["em"],
            r["em_low"],
            r["em_high"],
            _COLOURS.get(r["model"], "#777"),
            1 if r["mode"] == "closed" else 0.6,
        )
        for r in results
    ]
    return bars(lines, "exact match per suite")
