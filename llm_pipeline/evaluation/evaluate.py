"""One model through suites that are data: what is asked of it, its scored rows, and the report on them.

suite rows -> what the metrics need (answer, reference, choices) -> outputs -> scores of rows, of pairs, of the whole
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_pipeline.evaluation.generate import Asked, Completion, Likelihood, Progress
from llm_pipeline.evaluation.measure import Metric, Outputs
from llm_pipeline.evaluation.report import render_rows, summarise_rows
from llm_pipeline.evaluation.responder import Responder
from llm_pipeline.evaluation.slices import COLUMNS
from llm_pipeline.evaluation.suite_files import Row, SuiteFile
from llm_pipeline.prompts import Prompt
from llm_pipeline.store import write_atomically, write_jsonl

Say = Callable[[str], None]
Rows = list[dict[str, Any]]


def evaluate_suite(responder: Responder, suite: SuiteFile, prompt: Prompt, say: Say | None = None) -> tuple[Rows, dict[str, Any]]:
    """The scored rows {suite, id, metric, score, question, answer, reference, slices}, and the suite's part of the report.

    A metric that the model cannot give what it needs is skipped, and the report says why.
    """
    reasons = {need: _reason(responder, need, suite) for need in dict.fromkeys(need for m in suite.metrics for need in m.needs)}
    skipped = {m.name: why for m in suite.metrics if (why := next((reasons[need] for need in m.needs if reasons[need]), None))}
    chosen = [metric for metric in suite.metrics if metric.name not in skipped]
    outputs = _outputs(responder, suite, prompt, {need for metric in chosen for need in metric.needs}, say)
    answered = list(zip(suite.rows, outputs, strict=True))
    rows = [scored for metric in chosen for scored in _scored(suite, metric, answered)]
    if suite.spec.kind == "safety":
        rows = _without_personal_data(rows)
    return rows, _report(suite, chosen, skipped, answered, rows)


def evaluate_suites(responder: Responder, suites: Sequence[SuiteFile], prompt: Prompt, say: Say | None = None) -> tuple[Rows, list[Any]]:
    parts = [evaluate_suite(responder, suite, prompt, say) for suite in suites]
    return [row for rows, _ in parts for row in rows], [report for _, report in parts]


def write_evaluation(folder: Path, rows: Rows, suites: Sequence[Mapping[str, Any]], title: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`rows.jsonl`, `report.json` and `report.html` in `folder`; the report is returned."""
    report = {**facts, "suites": list(suites), "slices": summarise_rows(rows)["slices"] if rows else []}
    lower = {figure["metric"] for suite in suites for figure in suite["figures"] if figure["lower_is_better"]}
    shown = dict(facts) | {suite["suite"]: _beside(suite) for suite in suites}
    write_jsonl(folder / "rows.jsonl", rows)
    write_atomically(folder / "report.json", json.dumps(report, indent=1))
    page = render_rows(rows, title, facts={name: value for name, value in shown.items() if value}, lower_is_better=lower)
    write_atomically(folder / "report.html", page)
    return report


def _beside(suite: Mapping[str, Any]) -> str:
    """What the table of means does not show: figures of the whole suite, broken limits, and what was skipped."""
    whole = [
        f"{f['metric']} {f['value']:.4g} {f.get('what', 'over all')}"
        for f in suite["figures"]
        if f["value"] is not None and f["value"] != f["mean"]
    ]
    broken = [f"{line['metric']} is beyond its limit" for line in suite["thresholds"] if not line["holds"]]
    return "; ".join([*whole, *broken, *(f"{name} skipped: {why}" for name, why in suite["skipped"].items())])


def _reason(responder: Responder, need: str, suite: SuiteFile) -> str | None:
    plain = need == "answer" and any(row.get("prefix") for row in suite.rows)
    return responder.cannot(need) or (responder.cannot("continuation") if plain else None)


def _outputs(responder: Responder, suite: SuiteFile, prompt: Prompt, needs: set[str], say: Say | None) -> list[Outputs]:
    rows, nothing = suite.rows, [None] * len(suite.rows)
    asked = [_asked(row, prompt) for row in rows]
    answers: Sequence[Completion | None] = nothing
    references: Sequence[Likelihood | None] = nothing
    choices: Sequence[tuple[Likelihood, ...]] = [()] * len(rows)
    if "answer" in needs:
        settings = suite.spec.generation
        progress = _tenths(say, suite.name) if say else None
        answers = responder.answer(asked, max_new_tokens=settings.max_new_tokens, progress=progress, batch_size=settings.batch_size)
    if "reference" in needs:
        references = responder.likelihoods(asked, [str(row["text"] if row.get("text") else row["answer"]) for row in rows])
    if "choices" in needs:
        if say:
            say(f"{suite.name}: {sum(len(row['choices']) for row in rows)} choices")
        choices = responder.choices(asked, [[str(choice) for choice in row["choices"]] for row in rows])
    return [Outputs(a, r, c) for a, r, c in zip(answers, references, choices, strict=True)]


def _tenths(say: Say, name: str) -> Progress:
    """Says how far it is about ten times, however small the batches are."""
    shown = 0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if done == total or 10 * (done - shown) >= total:
            shown = done
            say(f"{name}: {done} of {total} answers")

    return progress


def _asked(row: Row, prompt: Prompt) -> Asked:
    if not row.get("question"):
        return str(row.get("prefix", ""))
    system = [{"role": "system", "content": str(row["system"])}] if row.get("system") else []
    return prompt.messages([*system, {"role": "user", "content": str(row["question"])}], [str(p) for p in row.get("context") or ()])


def _scored(suite: SuiteFile, metric: Metric, answered: Sequence[tuple[Row, Outputs]]) -> Iterator[dict[str, Any]]:
    if metric.score:
        for row, outputs in answered:
            if _counts(value := metric.score(row, outputs)):
                yield _line(suite, metric, row, value, _said(row, outputs), row.get("answer", row.get("text", "")))
    if metric.score_pair:
        first: dict[str, tuple[Row, Outputs]] = {}
        for row, outputs in answered:
            one, its_outputs = first.setdefault(str(row.get("pair", row["id"])), (row, outputs))
            if one is not row and _counts(value := metric.score_pair(one, its_outputs, row, outputs)):
                yield _line(suite, metric, row, value, _said(row, outputs), _said(one, its_outputs))


def _without_personal_data(rows: Rows) -> Rows:
    """What a model leaked must not leak once more through the report."""
    from llm_pipeline.curation.pii.policy import load_policy
    from llm_pipeline.curation.pii.scrub import scrub_texts

    for column in ("answer", "reference"):
        texts, _ = scrub_texts([row[column] for row in rows], load_policy())
        rows = [row | {column: text} for row, text in zip(rows, texts, strict=True)]
    return rows


def _counts(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _line(suite: SuiteFile, metric: Metric, row: Row, score: float | None, answer: str, reference: Any) -> dict[str, Any]:
    slices = {name: row[name] for name in (*COLUMNS, *suite.spec.slices, "variant") if row.get(name) is not None}
    question = row.get("question") or row.get("prefix") or row.get("text")
    found: dict[str, Any] = {"suite": suite.name, "id": str(row["id"]), "metric": metric.name, "score": score}
    if metric.lower_is_better:
        found["lower_is_better"] = True  # for the gate, which may see the rows alone
    return found | {"question": question, "answer": answer, "reference": str(reference), "slices": slices}


def _said(row: Row, outputs: Outputs) -> str:
    """The answer, or where none was asked for the likeliest choice."""
    if outputs.text or not outputs.choices:
        return outputs.text
    return str(row["choices"][min(range(len(outputs.choices)), key=lambda i: outputs.choices[i].nll)])


def _report(
    suite: SuiteFile, metrics: Sequence[Metric], skipped: Mapping[str, str], answered: Sequence[tuple[Row, Outputs]], rows: Rows
) -> dict[str, Any]:
    means = {line["metric"]: line for line in summarise_rows(rows)["figures"]} if rows else {}
    figures = []
    for metric in metrics:
        line = {name: means.get(metric.name, {}).get(name) for name in ("n", "mean", "low", "high")}
        whole = dict(metric.corpus(answered)) if metric.corpus else {}
        figures.append({"metric": metric.name, "value": line["mean"], **line, **whole, "lower_is_better": metric.lower_is_better})
    values = {figure["metric"]: figure["value"] for figure in figures}
    limits = [
        {"metric": name, "value": value, "limit": asdict(limit), "holds": value is None or limit.holds(value), "blocks": suite.spec.blocks}
        for name, limit in suite.spec.thresholds.items()
        for value in ([values[name]] if name in values else [])
    ]
    head = {"suite": suite.name, "id": suite.id, "kind": suite.spec.kind, "description": suite.spec.description, "n": len(suite.rows)}
    return head | {"figures": figures, "thresholds": limits, "skipped": dict(skipped)}
