"""What the HTML pages of the stage share: one self-contained shell for light and dark, and plots as inline SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

_SHELL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2129; --faint: #6b7280; --line: #d7dbe0; --page: #ffffff; --good: #1a7f37; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #9aa3af; --line: #3a4048; --page: #15181d; --good: #4cc26b; --bad: #ff7b6b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: break-word; }
th { color: var(--faint); font-weight: 600; } td.number { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.right { color: var(--good); } .wrong { color: var(--bad); } .faint { color: var(--faint); }
svg text { fill: var(--ink); font-size: 12px; } svg line { stroke: var(--faint); } details { margin: .2rem 0; }
summary { cursor: pointer; }
</style></head><body>
<h1>{{ title }}</h1>
{{ body }}
</body></html>
"""  # noqa: E501


class Bar(NamedTuple):
    """One line of a plot: a value from `origin` on, with the bounds of its interval."""

    label: str
    value: float
    low: float
    high: float
    colour: str = "#2f7ed8"
    opacity: float = 1.0


def page(title: str, template: str, **values: Any) -> str:
    """The template's text inside the shell; every text from outside is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["figure"] = figure
    environment.filters["clipped"] = clipped
    body = Markup(environment.from_string(template).render(**values))
    return environment.from_string(_SHELL).render(title=title, body=body)


def figure(value: float | None) -> str:
    """A number with as many places as it can use: shares three, thousands none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def bars(lines: Sequence[Bar], what: str, *, low: float = 0.0, high: float = 1.0) -> Markup:
    """Horizontal bars with whiskers on a scale from `low` to `high`, drawn from 0; labels are escaped."""
    left, width, y, parts = 270, 560, 8, []

    def x(value: float) -> float:
        return left + width * (min(max(value, low), high) - low) / ((high - low) or 1.0)

    for line in lines:
        start, end = sorted((x(0.0), x(line.value)))
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(line.label)}</text>'
            f'<rect x="{start:.1f}" y="{y + 2}" width="{max(1.0, end - start):.1f}" height="14" fill="{line.colour}" '
            f'opacity="{line.opacity}"/><line x1="{x(line.low):.1f}" x2="{x(line.high):.1f}" y1="{y + 9}" y2="{y + 9}" stroke-width="2"/>'
            f'<text x="{x(line.high) + 6:.1f}" y="{y + 13}">{figure(line.value)}</text>'
        )
        y += 20
    zero = f'<line x1="{x(0.0):.1f}" x2="{x(0.0):.1f}" y1="4" y2="{y}" stroke-dasharray="3 3"/>'
    box = f"0 0 {left + width + 60} {y + 8}"
    return Markup(f'<svg viewBox="{box}" width="100%" role="img" aria-label="{html.escape(what)}">{zero}{"".join(parts)}</svg>')


def histogram(values: Sequence[float], bins: int = 10) -> Markup:
    """How scores are spread, as a small inline plot with its ends named."""
    import numpy as np

    counts, edges = np.histogram(np.asarray(values, float), bins=bins)
    top = max(1, int(counts.max()))
    columns = "".join(
        f'<rect x="{i * 11}" y="{30 - 28 * n / top:.1f}" width="10" height="{28 * n / top:.1f}" fill="#2f7ed8"/>'
        for i, n in enumerate(counts)
    )
    first, last = figure(float(edges[0])), figure(float(edges[-1]))
    ends = f'<text x="0" y="43">{first}</text><text x="{bins * 11}" y="43" text-anchor="end">{last}</text>'
    return Markup(f'<svg viewBox="0 0 {bins * 11} 46" width="130" role="img" aria-label="spread of the scores">{columns}{ends}</svg>')


def clipped(text: object, characters: int = 600) -> str:
    """Long texts are cut, and say so."""
    words = "" if text is None else str(text)
    return words if len(words) <= characters else f"{words[:characters]} … ({len(words):,} characters)"


def facts_line(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in facts.items())
