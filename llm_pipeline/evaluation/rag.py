"""Answering over passages taken apart: was the answer found, was it read, and what is retrieval worth against memory.

Made from the answers of the evaluation report; no model is asked again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llm_pipeline.evaluation.compare import paired_difference, score_interval
from llm_pipeline.evaluation.metrics import is_grounded
from llm_pipeline.evaluation.report_page import Bar, bars, page
from llm_pipeline.store import Artifact, Home, write_atomically

Row = Mapping[str, Any]
SCORING = 1
OUTCOMES = {
    "right": "the expected answer, or a refusal where there is none",
    "not found": "no passage holds the answer",
    "misread": "a passage holds the answer, and the model said something else",
    "refused": "a passage holds the answer, and the model said that it does not know",
    "made up": "there is no answer, and the model gave one",
}
_TEMPLATE = """<p class="faint">evaluation report <code>{{ eval_report }}</code>, index <code>{{ index or "none" }}</code>. Intervals: 90%.
{% for name, meaning in outcomes.items() %}<br>{{ name }}: {{ meaning }}{% endfor %}</p>
{{ chart }}
<div class="wide"><table><tr>{% for head in ["suite", "model", "n", "right", "found", "right when found", "supported by a passage", "gain over memory"] %}
<th>{{ head }}</th>{% endfor %}{% for name in outcomes %}<th>{{ name }}</th>{% endfor %}</tr>
{% for r in results %}<tr><td>{{ r.suite }}</td><td>{{ r.model }}</td><td class="number">{{ r.n }}</td><td class="number">{{ r.right.mean | share }}</td>
<td class="number">{{ r.found | share }}</td><td class="number">{{ r.right_when_found | share }}</td><td class="number">{{ r.grounded | share }}</td>
<td class="number">{% if r.gain %}{{ r.gain.mean | share }} [{{ r.gain.low | share }}, {{ r.gain.high | share }}]{% endif %}</td>
{% for name in outcomes %}<td class="number">{{ r.outcomes[name] }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<h2>Examples of what went wrong</h2><div class="wide"><table><tr>{% for head in ["suite", "model", "outcome", "question", "expected", "answer", "passage"] %}
<th>{{ head }}</th>{% endfor %}</tr>
{% for e in examples %}<tr><td>{{ e.suite }}</td><td>{{ e.model }}</td><td>{{ e.outcome }}</td><td>{{ e.question | clipped }}</td>
<td>{{ e.reference | clipped }}</td><td class="wrong">{{ e.answer | clipped }}</td><td class="faint">{{ e.passage | clipped }}</td></tr>
{% else %}<tr><td colspan="7">none</td></tr>{% endfor %}</table></div>"""  # noqa: E501


def build_rag(home: Home) -> Artifact:
    """The `rag_report` of the newest evaluation report."""
    report = home.artifacts.named("eval_report")

    def make(folder: Path) -> Mapping[str, Any]:
        rows = report.jsonl("answers.jsonl")
        content = {
            "eval_report": report.id,
            "index": report.json("report.json")["index"],
            "results": results(rows),
            "examples": examples(rows),
        }
        write_atomically(folder / "report.json", json.dumps(content, indent=1))
        write_atomically(
            folder / "report.html", page("Answers over passages", _TEMPLATE, outcomes=OUTCOMES, chart=_chart(content), **content)
        )
        return {"groups": len(content["results"])}

    return home.artifacts.build("rag_report", {"eval_report": report.id, "scoring": SCORING}, make)


def outcome(row: Row) -> str:
    """What became of one question that was asked with passages; one of `OUTCOMES`."""
    if row["kind"] == "refusal":
        return "right" if row["refused"] else "made up"
    if row["em"]:
        return "right"
    if not holds_answer(row):
        return "not found"
    return "refused" if row["refused"] else "misread"


def holds_answer(row: Row) -> bool:
    return is_grounded(str(row["reference"]), [passage["text"] for passage in row["passages"]])


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line per suite and model; `gain` is exact match over passages minus from memory, on the same questions."""
    closed = {(row["suite"], row["model"], row["id"]): float(row["em"]) for row in rows if row["mode"] == "closed"}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["mode"] == "retrieval":
            groups.setdefault((row["suite"], row["model"]), []).append(row)
    return [{"suite": suite, "model": model} | _result(group, closed) for (suite, model), group in groups.items()]


def _result(rows: Sequence[Row], closed: Mapping[tuple[str, str, str], float]) -> dict[str, Any]:
    counted = Counter(outcome(row) for row in rows)
    answerable = [row for row in rows if row["kind"] != "refusal"]
    found = [row for row in answerable if holds_answer(row)]
    supported = [float(row["grounded"]) for row in rows if row["grounded"] is not None]
    pairs = [(closed[key], float(row["em"])) for row in answerable if (key := (row["suite"], row["model"], row["id"])) in closed]
    return {
        "n": len(rows),
        "right": asdict(score_interval([float(outcome(row) == "right") for row in rows])),
        "found": _share(len(found), len(answerable)),
        "right_when_found": _share(sum(bool(row["em"]) for row in found), len(found)),
        "grounded": _share(sum(supported), len(supported)),
        "gain": asdict(paired_difference([before for before, _ in pairs], [after for _, after in pairs])) if pairs else None,
        "outcomes": {name: counted[name] for name in OUTCOMES},
    }


def examples(rows: Sequence[Row], each: int = 3) -> list[dict[str, Any]]:
    """A few wrong answers of every kind, suite and model, each with the first passage."""
    taken: Counter[tuple[str, str, str]] = Counter()
    chosen = []
    for row in rows:
        if row["mode"] != "retrieval" or (what := outcome(row)) == "right":
            continue
        taken[row["suite"], row["model"], what] += 1
        if taken[row["suite"], row["model"], what] <= each:
            passage = row["passages"][0]["text"] if row["passages"] else ""
            chosen.append(
                {name: row[name] for name in ("suite", "model", "question", "reference", "answer")} | {"outcome": what, "passage": passage}
            )
    return chosen


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _chart(content: Mapping[str, Any]) -> Markup:
    lines = [Bar(f"{r['suite']} · {r['model']}", r["right"]["mean"], r["right"]["low"], r["right"]["high"]) for r in content["results"]]
    return bars(lines, "share of right answers over passages") if lines else Markup("")
