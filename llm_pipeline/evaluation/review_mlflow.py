"""The queue in MLflow's own review page: a trace per item, questions with fixed answers, a review queue; and the answers back.

MLflow 3.17 has review queues and label schemas in its open tracking store (labelling sessions are Databricks only). Reviewers work in the
page Review of `llm-pipeline mlflow`; what they say are assessments of the trace, which is what comes back here.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError, MissingError
from llm_pipeline.evaluation.review_queue import Item
from llm_pipeline.training.tracking import client

EXPERIMENT = "human-review"
CORRECTION = "The right answer"
NOBODY = "default"
"""Reviewer of what was said in a page without login."""
_ITEM, _QUEUE = "review.item", "review.queue"
_FEW = 10
"""Most options that MLflow offers as a choice; a longer scale is a number."""


def export_queue(uri: str, items: Sequence[Item], name: str, users: Sequence[str] = ()) -> dict[str, Any]:
    """Put the items into the review queue `name`; those that are there already stay as they are, with what was said about them."""
    with _tracking(uri) as mlflow:
        from mlflow.genai import review_queues

        experiment = _experiment(mlflow, uri)
        schemas = [_schema(item, experiment) for item in {_question(item): item for item in items}.values()]
        schemas.append(_correction(experiment))
        known = _traces(mlflow, experiment, name)
        queue = _queue(experiment, name, list(users), list(dict.fromkeys(schemas)))
        fresh = [item for item in items if item.item not in known]
        traces = [_trace(mlflow, experiment, name, item) for item in fresh]
        if traces:
            review_queues.add_items_to_review_queue(queue.queue_id, item_ids=traces)
        return {"queue": name, "queue_id": queue.queue_id, "experiment": EXPERIMENT, "added": len(fresh), "known": len(items) - len(fresh)}


def import_opinions(uri: str, items: Mapping[str, Item], name: str) -> list[tuple[dict[str, Any], str]]:
    """Rows {item, reviewer, label, corrected, comment} with where each comes from, the last word of each reviewer on each item."""
    with _tracking(uri) as mlflow:
        found = mlflow.get_experiment_by_name(EXPERIMENT)
        traces = _traces(mlflow, found.experiment_id, name) if found else {}
        if not traces:
            raise MissingError(f"no review queue {name!r} in {uri}: `llm-pipeline review export QUEUE.jsonl --mlflow` makes it")
        rows = []
        for item, trace in traces.items():
            if item in items:
                rows += [(row, f"trace {trace.info.trace_id}") for row in _said(items[item], trace.info.assessments)]
        return rows


@contextmanager
def _tracking(uri: str) -> Iterator[Any]:
    """MLflow on `uri`, as it was before afterwards; traces are written before a call returns."""
    client(uri)
    import mlflow

    before, mode = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING")
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    mlflow.set_tracking_uri(uri)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield mlflow
    finally:
        mlflow.set_tracking_uri(before)
        if mode is None:
            del os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"]
        else:
            os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = mode


def _experiment(mlflow: Any, uri: str) -> str:
    if known := mlflow.get_experiment_by_name(EXPERIMENT):
        return str(known.experiment_id)
    store = Path(uri.removeprefix("sqlite:///")).parent / "artifacts"
    return str(mlflow.create_experiment(EXPERIMENT, artifact_location=store.as_uri() if uri.startswith("sqlite:///") else None))


def _question(item: Item) -> str:
    if item.task == "pair":
        return "Which answer is better?"
    return "Does the answer pass?" if item.scale is None else f"How good is the answer ({item.scale.low} to {item.scale.high})?"


def _schema(item: Item, experiment: str) -> str:
    from mlflow.genai import label_schemas as ls

    options = [str(option) for option in item.options]
    kind: Any = ls.InputPassFail("Pass", "Fail")
    if item.scale and len(options) > _FEW:
        kind = ls.InputNumeric(min_value=item.scale.low, max_value=item.scale.high)
    elif item.task != "pass":
        kind = ls.InputCategorical(options)
    meaning = item.scale.meaning if item.scale else {}
    words = "; ".join(f"{score}: {text}" for score, text in sorted(meaning.items()))[:1000]
    return _get_or_create(experiment, _question(item), "feedback", kind, words or None)


def _correction(experiment: str) -> str:
    from mlflow.genai import label_schemas as ls

    return _get_or_create(experiment, CORRECTION, "expectation", ls.InputText(), "Only where the answer is wrong.")


def _get_or_create(experiment: str, name: str, kind: Any, widget: Any, instruction: str | None) -> str:
    from mlflow.genai import label_schemas as ls

    for schema in ls.list_label_schemas(experiment):
        if schema.name == name:
            if schema.input != widget:
                raise InputError(f"MLflow's question {name!r} has other answers ({schema.input}), expected {widget}")
            return str(schema.schema_id)
    comment = kind == "feedback"
    made = ls.create_label_schema(name, type=kind, input=widget, instruction=instruction, enable_comment=comment, experiment_id=experiment)
    return str(made.schema_id)


def _queue(experiment: str, name: str, users: list[str], schemas: list[str]) -> Any:
    from mlflow.genai import review_queues

    token = None
    while True:
        page = review_queues.list_review_queues(experiment_id=experiment, page_token=token)
        for queue in page:
            if queue.name == name:
                if missing := set(schemas) - set(queue.schema_ids):
                    raise InputError(f"review queue {name!r} asks other questions ({len(missing)} missing); choose another --name")
                return queue
        if not (token := page.token):
            return review_queues.create_review_queue(name, queue_type="custom", users=users, schema_ids=schemas, experiment_id=experiment)


def _trace(mlflow: Any, experiment: str, name: str, item: Item) -> str:
    tracing = mlflow.MlflowClient()
    asked = {"question": item.question} | ({"reference": item.reference} if item.reference is not None else {})
    span = tracing.start_trace("review", inputs=asked, experiment_id=experiment, tags={_ITEM: item.item, _QUEUE: name})
    names = ("answer_a", "answer_b") if item.task == "pair" else ("answer",)
    tracing.end_trace(span.trace_id, outputs=dict(zip(names, item.answers, strict=True)))
    return str(span.trace_id)


def _traces(mlflow: Any, experiment: str, name: str) -> dict[str, Any]:
    """The traces of a queue, by item."""
    where = f"tags.`{_QUEUE}` = {json.dumps(name)}"
    found = mlflow.search_traces(locations=[experiment], filter_string=where, max_results=100_000, return_type="list", include_spans=False)
    return {trace.info.tags[_ITEM]: trace for trace in found}


def _said(item: Item, assessments: Sequence[Any]) -> list[dict[str, Any]]:
    """What each reviewer said about one item."""
    rows: dict[str, dict[str, Any]] = {}
    people = [a for a in assessments if a.source.source_type == "HUMAN" and a.valid is not False]
    for assessment in sorted(people, key=lambda a: a.last_update_time_ms):
        reviewer = assessment.source.source_id or NOBODY
        row = rows.setdefault(reviewer, {"item": item.item, "reviewer": reviewer})
        if assessment.name == _question(item) and assessment.feedback:
            row |= {"label": assessment.feedback.value, "comment": assessment.rationale or ""}
        elif assessment.name == CORRECTION and assessment.expectation:
            row["corrected"] = assessment.expectation.value
    return [row for row in rows.values() if "label" in row]
