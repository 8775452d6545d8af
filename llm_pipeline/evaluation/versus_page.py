"""The comparison of two models as a page: verdict, differences, slices, and their answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from llm_pipeline.evaluation.report_page import Bar, bars, page

_COLOURS = {"pass": "#1a7f37", "fail": "#c0392b"}

_TEMPLATE = """<p>First: <code>{{ names[0] }}</code>, second: <code>{{ names[1] }}</code>. Differences are second minus first.</p>
<h2>Verdict: {{ decision.verdict }}</h2><ul>{% for reason in decision.reasons %}<li>{{ reason }}</li>{% endfor %}</ul>
{% for note in decision.notes %}<p class="faint">{{ note }}</p>{% endfor %}
<h2>Differences</h2>{{ chart }}
<div class="wide"><table>
<tr>{% for head in ["metric", "role", "n", "first", "second", "difference", "interval", "p", "p of a loss (Holm)", "margin", "detectable at .8, .9", "test", ""] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for name, m in decision.metrics.items() %}<tr><td>{{ name }}{{ " (lower is better)" if m.better == "lower" }}</td><td>{{ m.role }}</td><td class="number">{{ m.n }}</td>
<td class="number">{{ m.champion | figure }}</td><td class="number">{{ m.challenger | figure }}</td><td class="number">{{ m.difference | figure }}</td>
<td class="number">[{{ m.interval[0] | figure }}, {{ m.interval[1] | figure }}]</td><td class="number">{{ m.p_value | figure }}</td><td class="number">{{ m.adjusted_p | figure }}</td>
<td class="number">{{ m.margin | figure }}</td><td class="number">{{ m.minimum_detectable_effect["0.8"] | figure }}, {{ m.minimum_detectable_effect["0.9"] | figure }}</td>
<td>{{ m.test }}</td><td class="{{ "right" if m.verdict == "pass" else "wrong" if m.verdict == "fail" }}">{{ m.verdict }}</td></tr>{% endfor %}
</table></div>
<h2>Slices</h2>{% if slices %}<p class="faint">p-values are corrected for the {{ slices | length }} slices (Holm), intervals are not.</p><div class="wide"><table>
<tr>{% for head in ["metric", "slice", "value", "n", "first", "second", "difference", "interval", "p (Holm)"] %}<th>{{ head }}</th>{% endfor %}</tr>
{% for s in slices %}<tr><td>{{ s.metric }}</td><td>{{ s.slice }}</td><td>{{ s.value }}</td><td class="number">{{ s.n }}</td><td class="number">{{ s.champion | figure }}</td>
<td class="number">{{ s.challenger | figure }}</td><td class="number">{{ s.difference | figure }}</td><td class="number">[{{ s.interval[0] | figure }}, {{ s.interval[1] | figure }}]</td>
<td class="number{{ " wrong" if s.adjusted_p <= 0.05 }}">{{ s.adjusted_p | figure }}</td></tr>{% endfor %}</table></div>
{% else %}<p class="faint">The rows have none with more than one value and enough pairs.</p>{% endif %}
<h2>Examples won and lost</h2>
{% for metric, f in flips.items() %}<details{{ " open" if loop.first }}><summary>{{ metric }}: {{ f.won }} won, {{ f.lost }} lost, {{ f.same }} the same</summary>
{% for title, examples, tone in [("Lost", f.examples_lost, "wrong"), ("Won", f.examples_won, "right")] %}{% if examples %}<div class="wide"><table>
<tr><th>{{ title }}</th><th>question</th><th>expected</th><th>first</th><th>second</th></tr>
{% for e in examples %}<tr><td>{{ e.id }}</td><td>{{ e.question | clipped }}</td><td>{{ e.reference | clipped }}</td>
<td>{{ e.answers[0] | clipped }}<br><span class="faint">{{ e.scores[0] | figure }}</span></td>
<td class="{{ tone }}">{{ e.answers[1] | clipped }}<br><span class="faint">{{ e.scores[1] | figure }}</span></td></tr>{% endfor %}</table></div>{% endif %}{% endfor %}
</details>{% endfor %}"""  # noqa: E501


def render_comparison(result: Mapping[str, Any]) -> str:
    """What `compare_rows` found as a self-contained page; every text from outside is escaped."""
    return page("Comparison of two models", _TEMPLATE, **result, chart=difference_chart(result["decision"]["metrics"]))


def difference_chart(metrics: Mapping[str, Any]) -> Markup:
    """Differences with their intervals around 0, of metrics whose scores are shares."""
    lines: Sequence[Bar] = [
        Bar(name, m["difference"], m["interval"][0], m["interval"][1], _COLOURS.get(m["verdict"], "#8a8f98"))
        for name, m in metrics.items()
        if "difference" in m
        and None not in m["interval"]
        and max(m["champion"], m["challenger"]) <= 1
        and min(m["champion"], m["challenger"]) >= 0
    ]
    widest = max((abs(bound) for line in lines for bound in (line.low, line.high)), default=0.0)
    return bars(lines, "differences with intervals", low=-widest, high=widest) if lines else Markup("")
