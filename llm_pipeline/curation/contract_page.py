"""The result of a contract as one HTML file that needs nothing from the network (Great Expectations' own pages do)."""

from __future__ import annotations

from html import escape
from pathlib import Path

from llm_pipeline.curation.contracts import ContractResult, Outcome
from llm_pipeline.store import write_atomically

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.holds { color: #1a7f37; } .broken { color: #cf222e; font-weight: 600; }
code { font-size: .9em; }
"""


def render(result: ContractResult) -> str:
    held = sum(outcome.success for outcome in result.outcomes)
    verdict = '<span class="holds">holds</span>' if result.success else '<span class="broken">is broken</span>'
    rows = "\n".join(_row(outcome) for outcome in result.outcomes)
    title = f"Contract of {escape(result.table)}, {escape(result.day)}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f"<p>The contract {verdict}: {held} of {len(result.outcomes)} expectations on {result.rows:,} rows.</p>\n"
        f"<table><thead><tr><th>result</th><th>column</th><th>expectation</th><th>why</th><th>checked</th><th>failed</th></tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table>\n</body></html>\n"
    )


def _row(outcome: Outcome) -> str:
    mark = '<span class="holds">holds</span>' if outcome.success else '<span class="broken">broken</span>'
    why = escape(outcome.why) + (f"<br>{escape(outcome.detail)}" if outcome.detail else "")
    return (
        f"<tr><td>{mark}</td><td><code>{escape(outcome.column)}</code></td><td><code>{escape(outcome.type)}</code></td><td>{why}</td>"
        f'<td class="number">{outcome.checked:,}</td><td class="number">{outcome.failed:,}</td></tr>'
    )


def write_page(result: ContractResult, reports: Path) -> Path:
    """Write `<reports>/contracts/<table>/<day>.html` and return its path."""
    path = reports / "contracts" / result.table / f"{result.day}.html"
    write_atomically(path, render(result))
    return path
