"""Pages on prompts: what a change does, and how a prompt was selected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pipeline.evaluation.report_page import page

_SHOWN = 60
_METRICS = """
<div class="wide"><table><tr><th>metric</th><th>n</th><th>before</th><th>after</th><th>difference [90%]</th></tr>
{% for name, m in metrics.items() %}<tr><td>{{ name }}</td><td class="number">{{ m.difference.n }}</td>
<td class="number">{{ m.before | share }}</td><td class="number">{{ m.after | share }}</td>
<td class="number">{{ m.difference.mean | share }} [{{ m.difference.low | share }}, {{ m.difference.high | share }}]</td></tr>{% endfor %}
</table></div>
"""
_CHANGE = (
    """
<p class="faint">before <code>{{ before.name }} {{ before.id }}</code> &middot; after <code>{{ after.name }} {{ after.id }}</code>
&middot; model <code>{{ model }}</code> &middot; {{ n }} questions. Intervals: 90%, paired bootstrap.</p>
<p>Exact match: <strong>{{ verdict }}</strong>. {{ won }} answers become right, {{ lost }} become wrong,
{{ changed | length }} differ at all.</p>
<h2>The change</h2><pre class="wide">{% for line in diff %}
<span class="{{ "right" if line.startswith("+") else "wrong" if line.startswith("-") else "faint" }}">{{ line }}</span>{% endfor %}</pre>
<h2>Figures</h2>"""
    + _METRICS
    + """
<h2>Answers that change</h2>
<div class="wide"><table><tr><th></th><th>question</th><th>expected</th><th>before</th><th>after</th></tr>
{% for c in changed[:shown] %}<tr><td>{{ c.flip or "both alike" }}</td><td>{{ c.question }}{% if c.passages %}
<details><summary class="faint">passages</summary>{% for p in c.passages %}<p class="faint">{{ p }}</p>{% endfor %}</details>
{% endif %}</td>
<td>{{ c.expected }}</td><td class="{{ "right" if c.flip == "lost" }}">{{ c.before }}</td>
<td class="{{ "right" if c.flip == "won" else "wrong" if c.flip == "lost" }}">{{ c.after }}</td></tr>
{% else %}<tr><td colspan="5">none</td></tr>{% endfor %}</table></div>
{% if changed | length > shown %}<p class="faint">The first {{ shown }}; all of them are in the JSON beside this page.</p>{% endif %}
"""
)
_SELECTION = (
    """
<p class="faint">model <code>{{ model }}</code> &middot; {{ splits.train }} questions to take examples from,
{{ splits.validation }} to choose by, {{ splits.test }} held out, which no choice has seen.</p>
<p>Chosen: <strong>{{ chosen.name }}</strong> (<code>{{ chosen.id }}</code>). On the questions it was chosen by it has
{{ chosen.validation | share }} exact match, which flatters it; on the held-out ones {{ chosen.test | share }}.
Against {{ baseline.name }} there: <strong>{{ held_out.verdict }}</strong>.</p>
<h2>On the held-out questions, against {{ baseline.name }}</h2>"""
    + _METRICS
    + """
<h2>Rounds (successive halving)</h2>
{% for round in rounds %}<h3>{{ round.questions }} questions</h3><div class="wide"><table>
<tr><th>candidate</th><th>exact match</th><th>ROUGE-L</th><th>prompt tokens</th><th></th></tr>
{% for c in round.candidates %}<tr><td>{{ c.name }}</td><td class="number">{{ c.em | share }}</td>
<td class="number">{{ c.rouge_l | share }}</td><td class="number">{{ "%.0f" | format(c.prompt_tokens) }}</td>
<td class="{{ "right" if c.kept else "faint" }}">{{ "kept" if c.kept else "dropped" }}</td></tr>
{% endfor %}</table></div>{% endfor %}
"""
)


def change_page(report: Mapping[str, Any]) -> str:
    return page("What the prompt change does", _CHANGE, shown=_SHOWN, **report)


def selection_page(report: Mapping[str, Any]) -> str:
    return page("How the prompt was selected", _SELECTION, metrics=report["held_out"]["metrics"], **report)
