"""The artefacts of the stage: each model's answers once, the report that compares them, the decision it leads to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.evaluation.gate import Decision
from llm_pipeline.evaluation.promotion import Policy, decide, default_policy, gate_policy, score_rows
from llm_pipeline.evaluation.report import summarise_rows
from llm_pipeline.evaluation.report_models import render
from llm_pipeline.evaluation.run import PASSAGES, refusal_quality, run_suites, summarise
from llm_pipeline.evaluation.scores import scores_of
from llm_pipeline.evaluation.suites import Suite, load_suites, primary_suite
from llm_pipeline.evaluation.versus import write_comparison
from llm_pipeline.prompts import Prompt
from llm_pipeline.store import Artifact, Artifacts, Home, write_atomically, write_jsonl

Say = Callable[[str], None]
SCORING = 3
"""Raised when scoring changes, so that older answers are not reused."""
LAYOUT = 2
"""Raised when the report holds more, so that it is written again from the same answers."""


@dataclass(frozen=True)
class EvalSettings:
    """What is asked, besides the models themselves."""

    primary: str = ""
    """Suite that decides; empty: see `primary_suite`."""
    limit: int = 150
    """Most questions per suite."""
    limit_other: int = 40
    """Most questions of a suite that says neither from when its answers are true nor that they are to be refused (a user's own)."""
    max_new_tokens: int = 40
    passages: int = PASSAGES
    base_retrieval: bool = False
    """Whether the base model is asked with passages too."""


def build_report(home: Home, prompt: Prompt, settings: EvalSettings | None = None, say: Say | None = None) -> Artifact:
    """Answers of base, candidate and champion (if any) to all suites, closed book and with the live index, and the report on them."""
    settings = settings or EvalSettings()
    suites = home.artifacts.named("evaluation_suites")
    chosen = {name: suite.sample(_limit(suite, settings)) for name, suite in load_suites(suites).items() if suite.rows}
    indexes = Artifacts(home.indexes)
    index = indexes.named("vector_index", "live") if indexes.has("vector_index", "live") else None
    models = _models(home)
    primary = primary_suite(chosen, settings.primary, snapshot_day(home))
    inputs = {
        "models": {name: model.id for name, model in models.items()},
        "suites": suites.id,
        "index": index.id if index else None,
        "prompt": prompt.id,
        "settings": asdict(settings) | {"primary": primary},
        "scoring": SCORING,
        "layout": LAYOUT,
    }

    def make(folder: Path) -> Mapping[str, Any]:
        rows: list[dict[str, Any]] = []
        for name, model in models.items():
            for used in [None] if name == "base" and not settings.base_retrieval else [None, index] if index else [None]:
                answers = build_answers(home, model, suites.id, chosen, prompt, used, settings, say)
                rows += [{"model": name} | row for row in answers.jsonl("answers.jsonl")]
        report = {
            **inputs,
            "models": inputs["models"],
            "primary": primary,
            "kinds": {name: suite.kind for name, suite in chosen.items()},
            "results": summarise(rows),
            "refusals": _refusals(rows),
            "slices": _slices(rows),
        }
        write_jsonl(folder / "answers.jsonl", rows)
        write_atomically(folder / "report.json", json.dumps(report, indent=1))
        write_atomically(folder / "report.html", render(report, rows))
        return {"primary": primary, "answers": len(rows)}

    return home.artifacts.build("eval_report", inputs, make)


def build_answers(
    home: Home,
    model: Artifact,
    suites_id: str,
    suites: Mapping[str, Suite],
    prompt: Prompt,
    index: Artifact | None,
    settings: EvalSettings,
    say: Say | None = None,
) -> Artifact:
    """One model's scored answers in one mode, made once for these inputs whichever role the model has at the time."""
    inputs = {
        "model": model.id,
        "suites": suites_id,
        "prompt": prompt.id,
        "index": index.id if index else None,
        "questions": {name: _limit(suite, settings) for name, suite in suites.items()},
        "max_new_tokens": settings.max_new_tokens,
        "passages": settings.passages if index else 0,
        "scoring": SCORING,
    }

    def make(folder: Path) -> Mapping[str, Any]:
        from llm_pipeline.evaluation.generate import Generator
        from llm_pipeline.retrieval.search import Searcher

        searcher = Searcher(index.path) if index else None
        rows = run_suites(
            Generator(model.path / "model"),
            suites,
            prompt,
            searcher,
            max_new_tokens=settings.max_new_tokens,
            passages=settings.passages,
            progress=(lambda done, total: say(f"{model.kind} {model.id[:8]}: {done} of {total} questions")) if say else None,
        )
        write_jsonl(folder / "answers.jsonl", rows)
        return {"answers": len(rows)}

    return home.artifacts.build("model_answers", inputs, make)


def build_decision(home: Home, policy: Policy | None = None, **options: Any) -> tuple[Artifact, Decision]:
    """The verdict on the newest report; `policy` defaults to `default_policy` of its primary suite with these `options`."""
    report = home.artifacts.named("eval_report")
    content = report.json("report.json")
    policy = policy or default_policy(content["primary"], content["kinds"], **options)
    models = content["models"]
    rows = report.jsonl("answers.jsonl")
    champion, candidate = ([row for row in rows if row["model"] == name] for name in ("champion", "candidate"))
    decision = decide(champion, candidate, policy)

    def make(folder: Path) -> Mapping[str, Any]:
        record = decision.json() | {"champion": models.get("champion"), "challenger": models["candidate"], "eval_report": report.id}
        write_atomically(folder / "decision.json", json.dumps(record, indent=1))
        if decision.compared:
            before, after = score_rows(champion, policy), score_rows(candidate, policy)
            names = f"champion {models['champion']}", f"candidate {models['candidate']}"
            write_comparison(folder, before, after, gate_policy(scores_of(before), policy), names)
        return {"verdict": decision.verdict}

    inputs = {"eval_report": report.id, "policy": asdict(policy), "layout": LAYOUT}
    return home.artifacts.build("promotion_decision", inputs, make), decision


def snapshot_day(home: Home) -> str | None:
    """The last day of the newest corpus snapshot, None when there is none or it does not say."""
    if not home.artifacts.has("corpus_snapshot"):
        return None
    snapshot = home.artifacts.named("corpus_snapshot")
    for place in (snapshot.info, snapshot.inputs):
        if place.get("until"):
            return str(place["until"])
        if isinstance(days := place.get("days"), list | dict) and days:
            return max(map(str, days))
    return None


def _limit(suite: Suite, settings: EvalSettings) -> int:
    known = suite.valid_from or suite.kind == "refusal" or suite.name == settings.primary
    return settings.limit if known else min(settings.limit, settings.limit_other)


def _models(home: Home) -> dict[str, Artifact]:
    models = {"base": home.artifacts.named("base_model"), "candidate": home.artifacts.named("candidate_model")}
    if home.artifacts.has("candidate_model", "champion"):
        models["champion"] = home.artifacts.named("candidate_model", "champion")
    return models


def _refusals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups = dict.fromkeys((row["model"], row["mode"]) for row in rows)
    return [
        {"model": model, "mode": mode} | refusal_quality([row for row in rows if (row["model"], row["mode"]) == (model, mode)])
        for model, mode in groups
    ]


def _slices(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The candidate's exact match by slice."""
    mine = [{**row, "metric": "em", "score": float(row["em"])} for row in rows if row["model"] == "candidate"]
    slices: list[dict[str, Any]] = summarise_rows(mine)["slices"]
    return slices
