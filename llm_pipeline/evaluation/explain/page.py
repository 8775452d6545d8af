"""The explanation as one page without scripts: the prompt's tokens, coloured by what each method gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_pipeline.evaluation.report_page import page

_TEMPLATE = """
{% macro heat(cells) %}<div class="heat">{% for c in cells %}<span{% if c.colour %} style="background:{{ c.colour }}"{% endif %}
 title="{{ c.score }}"{% if c.control %} class="faint"{% endif %}>{{ c.text }}</span>{% endfor %}</div>{% endmacro %}
<style>.heat { white-space: pre-wrap; line-height: 1.9; overflow-wrap: anywhere; margin: .5rem 0 1.5rem; } .heat span { border-radius: .2rem; }</style>
<p class="faint">model <code>{{ model }}</code> &middot; prompt <code>{{ prompt }}</code></p>
<p>Question: <strong>{{ question }}</strong><br>Answer: <strong>{{ answer }}</strong>
<span class="faint">(log-probability {{ figure(lp.full) }}; after a prompt of blanks {{ figure(lp.blank) }})</span></p>
<p class="faint">Blue tokens made the answer more likely, orange ones less; the value of a token shows when the pointer rests on it.
Control tokens are never changed. A blank is {{ blank }}.</p>
<h2>Integrated gradients</h2>
<p class="faint">At most {{ steps }} steps; the values add up to {{ figure(lp.explained) }} of {{ figure(lp.of) }} (completeness delta {{ figure(lp.delta) }}).</p>
{{ heat(heats.integrated_gradients) }}
<h2>Occlusion</h2>
<p class="faint">How much less likely the answer is when one token alone becomes a blank.</p>
{{ heat(heats.occlusion) }}
<h2>Are these values faithful?</h2>
<div class="wide"><table><tr><th>method</th><th>tokens removed</th><th>fall without the top tokens</th><th>without as many random ones</th></tr>
{% for name, f in faithfulness.items() %}<tr><td>{{ name | replace("_", " ") }}</td><td class="number">{{ f.tokens }} of {{ f.of }}</td>
<td class="number">{{ figure(f.top) }}</td><td class="number">{{ figure(f.random) }}</td></tr>{% endfor %}</table></div>
{% if contrast %}<h2>Why not &ldquo;{{ contrast.answer }}&rdquo;?</h2>
<p class="faint">What made the answer more likely than this one: {{ figure(contrast.full) }} nats apart, after blanks {{ figure(contrast.blank) }}
(completeness delta {{ figure(contrast.delta) }}).</p>
{{ heat(heats.contrast) }}{% endif %}
<h2>Attention rollout</h2>
<p class="faint">Where attention could carry something from, over all layers. It has no sign, says nothing of use, and favours early tokens.</p>
{{ heat(heats.rollout) }}
<h2>Each token of the answer</h2>
{% for a in answers %}<details><summary><code>{{ a.text }}</code></summary>{{ heat(a.cells) }}</details>{% endfor %}
{% if neighbours %}<h2>Nearest training turns</h2>
<p class="faint">By the cosine of their embeddings: a hint at where the answer may come from, no proof.</p>
<div class="wide"><table><tr><th>similarity</th><th>row</th><th>asked</th><th>said</th><th>holds the answer</th></tr>
{% for n in neighbours %}<tr><td class="number">{{ figure(n.similarity) }}</td><td><code>{{ n.row }}</code></td><td>{{ n.asked }}</td>
<td>{{ n.said }}</td><td>{{ "yes" if n.holds_answer else "no" }}</td></tr>{% endfor %}</table></div>{% endif %}
"""  # noqa: E501


def render(found: Mapping[str, Any]) -> str:
    """The page; every text from outside is escaped, and nothing is fetched from a network."""
    tokens = found["tokens"]
    names = ("integrated_gradients", "occlusion", "rollout", *(("contrast",) if found["contrast"] else ()))
    heats = {name: _cells(tokens, [token[name] for token in tokens]) for name in names}
    answers = [{"text": a["text"], "cells": _cells(tokens, a["integrated_gradients"])} for a in found["answer_tokens"]]
    shown = {key: found[key] for key in ("question", "answer", "prompt", "steps", "faithfulness", "contrast", "neighbours")}
    return page(
        "Why this answer",
        _TEMPLATE,
        **shown,
        model=found.get("model", ""),
        blank=repr(found["blank"]),
        lp=found["log_probability"],
        heats=heats,
        answers=answers,
        figure=lambda value: f"{value:.2f}",
    )


def _cells(tokens: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Each token with its colour, the strongest of all opaque to three quarters."""
    most = max(map(abs, scores), default=0.0) or 1.0
    return [
        {"text": token["text"], "control": token["control"], "score": f"{score:.4f}", "colour": _colour(score / most)}
        for token, score in zip(tokens, scores, strict=True)
    ]


def _colour(strength: float) -> str:
    """Blue for more likely, orange for less; nothing below a fiftieth of the strongest."""
    if abs(strength) < 0.02:
        return ""
    return f"rgba({'47,126,216' if strength > 0 else '216,110,30'},{0.75 * abs(strength):.3f})"
