"""What a changed prompt would do before it ships: its answers beside those of the prompt that answers customers now."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.evaluation.generate import Generator
from llm_pipeline.evaluation.prompt_compare import Case, ask, compare
from llm_pipeline.evaluation.prompt_page import change_page
from llm_pipeline.evaluation.prompt_registry import register
from llm_pipeline.evaluation.prompt_select import as_yaml
from llm_pipeline.evaluation.prompt_tests import failures, token_count
from llm_pipeline.evaluation.suites import load_suites
from llm_pipeline.prompts import Prompt, PromptFile
from llm_pipeline.serving.traffic.state import Spec, State
from llm_pipeline.store import Artifact, Artifacts, Home, write_atomically, write_jsonl

KIND = "prompt_report"
_VERSION = 1


@dataclass(frozen=True)
class Setting:
    """What a prompt works with: the prompt that it would replace, the model, and the index that finds its passages."""

    before: Prompt | None
    live: bool
    """Whether `before` answers customers now; else it is the prompt of the last report."""
    model: Path | None
    index: Path | None
    passages: int


def build_prompt_report(home: Home, file: PromptFile, *, limit: int = 40, max_new_tokens: int = 40) -> Artifact:
    """Report on a prompt file against the live release's prompt; when they are the same, only that is recorded.

    `limit`: most questions of each suite. Either way the prompt is registered in MLflow, and the live one gets the alias.
    """
    place = setting(home)
    before = place.before
    changed = before is not None and before.id != file.prompt.id and place.model is not None
    inputs: dict[str, Any] = {
        "version": _VERSION,
        "name": file.name,
        "prompt": file.prompt.content,
        "before": before.content if before else None,
        "live": place.live,
    }
    if changed:
        inputs |= {"model": str(place.model), "index": str(place.index), "passages": place.passages, "limit": limit}
        inputs |= {"suites": home.artifacts.named("evaluation_suites").id, "max_new_tokens": max_new_tokens}

    def make(folder: Path) -> Mapping[str, Any]:
        info: dict[str, Any] = {"prompt": file.prompt.id, "before": before.id if before else None, "changed": changed}
        if before and place.live:
            register(home.mlflow_uri, file.name, before, production=True)
        info["registered_version"] = register(home.mlflow_uri, file.name, file.prompt)
        if changed and before and place.model:
            old = PromptFile("live" if place.live else "last report", before)
            report = compare_files(old, file, place.model, _cases(home, place, limit), folder, max_new_tokens=max_new_tokens)
            info |= {key: report[key] for key in ("verdict", "won", "lost", "n")} | {"answers_changed": len(report["changed"])}
        return info

    return home.artifacts.build(KIND, inputs, make)


def broken_promises(home: Home, file: PromptFile) -> list[str]:
    """The tests of a prompt file that fail, lengths counted in tokens of the model that would be asked (if there is one)."""
    model = setting(home).model
    return failures(file, token_count(model) if model and any(test.max_tokens for test in file.tests) else None)


def setting(home: Home) -> Setting:
    """The release with most of the traffic, or without one the last report's prompt and the newest candidate and index."""
    spec = _live(home)
    if spec:
        index = Path(spec.index_path) if spec.index_path and spec.retrieval else None
        return Setting(build(Prompt, dict(spec.prompt), "live release: prompt"), True, Path(spec.model_path), index, spec.passages)
    last = home.artifacts.named(KIND).inputs["prompt"] if home.artifacts.has(KIND) else None
    model = home.artifacts.named("candidate_model").path / "model" if home.artifacts.has("candidate_model") else None
    indexes = Artifacts(home.indexes)
    found = indexes.named("vector_index", "live").path if indexes.has("vector_index", "live") else None
    return Setting(build(Prompt, last, "last prompt report") if last else None, False, model, found, 1)


def _live(home: Home) -> Spec | None:
    if not (home.endpoint / "endpoint.db").exists():
        return None
    state = State(home.endpoint)
    try:
        weights = state.traffic()[1]
        return state.spec(max(weights, key=lambda name: weights[name])) if weights else None
    finally:
        state.close()


def _cases(home: Home, place: Setting, limit: int) -> list[Case]:
    """Every suite's questions, over the passages that a customer's question would be answered over."""
    suites = load_suites(home.artifacts.named("evaluation_suites"))
    asked = [(name, row) for name, suite in suites.items() for row in suite.sample(limit).rows]
    found: dict[str, tuple[str, ...]] = {}
    if place.index:
        from llm_pipeline.retrieval.search import Searcher

        searcher = Searcher(place.index)
        questions = [str(row["question"]) for _, row in asked]
        searcher.embedder.warm(questions)
        found = {question: tuple(p.text for p in searcher.search(question, place.passages)) for question in questions}
    return [
        Case(f"{name}/{row['id']}", str(row["question"]), str(row["answer"]), found.get(str(row["question"]), ())) for name, row in asked
    ]


def changes(before: Prompt, after: Prompt) -> list[str]:
    """The lines by which two prompts differ, as a unified diff."""
    old, new = (as_yaml(prompt, "").splitlines()[1:] for prompt in (before, after))
    return list(difflib.unified_diff(old, new, "before", "after", lineterm="", n=2))


def compare_files(
    first: PromptFile, second: PromptFile, model: Path, cases: Sequence[Case], out: Path, *, max_new_tokens: int = 40
) -> dict[str, Any]:
    """The comparison of two prompts on given questions: report.json, report.html and the scored answers of both, in `out`."""
    generator = Generator(model)
    rows = [ask(generator, file.prompt, cases, max_new_tokens=max_new_tokens) for file in (first, second)]
    names = {side: {"name": file.name, "id": file.prompt.id} for side, file in (("before", first), ("after", second))}
    report = {**names, "model": str(model), "diff": changes(first.prompt, second.prompt), **compare(*rows)}
    write_atomically(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    write_atomically(out / "report.html", change_page(report))
    for side, answers in zip(names, rows, strict=True):
        write_jsonl(out / f"{side}.jsonl", answers)
    return report
