"""A card: titled sections of text and tables, written as Markdown (to read in a repository) and as one HTML file (to send)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_pipeline.store import write_atomically

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem }} th, td {{ border: 1px solid #ccc; padding: .25rem .6rem; text-align: left }}
th {{ background: #f3f3f3 }} td.number {{ text-align: right; font-variant-numeric: tabular-nums }}
</style></head><body>
{body}
</body></html>
"""


@dataclass(frozen=True)
class Section:
    """Some paragraphs and at most one table; all rows have the keys of the first."""

    title: str
    text: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Card:
    title: str
    sections: Sequence[Section] = field(default_factory=list)

    def markdown(self) -> str:
        parts = [f"# {self.title}"]
        for section in self.sections:
            parts += [f"## {section.title}", *section.text]
            if section.rows:
                names = list(section.rows[0])
                lines = [names, ["---"] * len(names), *[[_cell(row.get(name)) for name in names] for row in section.rows]]
                parts.append("\n".join("| " + " | ".join(value.replace("|", "\\|") for value in line) + " |" for line in lines))
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
            parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
            if section.rows:
                parts.append(_table(section.rows))
        return _PAGE.format(title=html.escape(self.title), body="\n".join(parts))

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.md` and `<name>.html` into `folder`."""
        write_atomically(folder / f"{name}.md", self.markdown())
        write_atomically(folder / f"{name}.html", self.html())


def mapping_rows(values: Mapping[str, Any], key: str = "name", value: str = "value") -> list[dict[str, Any]]:
    return [{key: name, value: content} for name, content in values.items()]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; lists of plain values stay as they are, others give their length."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            flat[f"{prefix}{name}"] = f"{len(value)} entries"
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else " ".join(str(value).split())


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for row in rows:
        cells = []
        for name in names:
            number = isinstance(row.get(name), int | float) and not isinstance(row.get(name), bool)
            cells.append(f'<td class="number">{_cell(row.get(name))}</td>' if number else f"<td>{html.escape(_cell(row.get(name)))}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"
