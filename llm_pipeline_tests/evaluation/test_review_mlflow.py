"""The queue in a real MLflow store on SQLite: traces, questions, a review queue; what people said there comes back once each."""

from __future__ import annotations

import pytest

from llm_pipeline.errors import InputError, MissingError
from llm_pipeline.evaluation.judge_rubric import Scale
from llm_pipeline.evaluation.review_labels import check_opinions, review
from llm_pipeline.evaluation.review_mlflow import CORRECTION, EXPERIMENT, export_queue, import_opinions
from llm_pipeline.evaluation.review_queue import Item
from llm_pipeline.store import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_a_queue_goes_to_mlflow_and_its_labels_come_back(home: Home) -> None:
    uri = home.mlflow_uri
    items = {
        "a" * 16: Item("a" * 16, "pass", "What is the fee?", ("$5",), "$5", (), {"id": "q1"}),
        "b" * 16: Item("b" * 16, "pair", "When do you open?", ("At 9.", "No idea."), None, (), {"id": "q2"}, models=("first", "second")),
        "c" * 16: Item("c" * 16, "score", "Who may join?", ("Anyone.",), None, (), {"id": "q3"}, scale=Scale(1, 5, 4, {1: "useless"})),
    }
    with pytest.raises(MissingError, match="no review queue 'weekly'"):
        import_opinions(uri, items, "weekly")
    first = export_queue(uri, list(items.values()), "weekly", ["alice", "bob"])
    assert (first["added"], first["known"]) == (3, 0)

    import mlflow
    from mlflow.entities import AssessmentSource
    from mlflow.genai import label_schemas, review_queues

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        experiment = mlflow.get_experiment_by_name(EXPERIMENT).experiment_id
        queue = review_queues.get_review_queue(name="weekly", experiment_id=experiment)
        assert queue.users == ["alice", "bob"]
        questions = {schema.schema_id: schema.name for schema in label_schemas.list_label_schemas(experiment)}
        assert {questions[i] for i in queue.schema_ids} == {
            "Does the answer pass?",
            "Which answer is better?",
            "How good is the answer (1 to 5)?",
            CORRECTION,
        }
        attached = review_queues.list_review_queue_items(queue.queue_id)
        traces = {t.info.tags["review.item"]: t for t in mlflow.search_traces(locations=[experiment], return_type="list")}
        assert {entry.item_id for entry in attached} == {trace.info.trace_id for trace in traces.values()}
        assert traces["a" * 16].data.spans[0].inputs == {"question": "What is the fee?", "reference": "$5"}
        assert traces["b" * 16].data.spans[0].outputs == {"answer_a": "At 9.", "answer_b": "No idea."}

        def say(item: str, name: str, value: object, who: str, kind: str = "HUMAN") -> None:
            source = AssessmentSource(kind, who)
            mlflow.log_feedback(trace_id=traces[item * 16].info.trace_id, name=name, value=value, source=source, rationale="seen")

        say("a", "Does the answer pass?", False, "alice")
        say("a", "Does the answer pass?", True, "alice")
        say("a", "Does the answer pass?", False, "robot", "LLM_JUDGE")
        say("a", "Feedback", "nice", "alice")
        say("b", "Which answer is better?", "A", "alice")
        say("b", "Which answer is better?", "A", "bob")
        say("b", "Which answer is better?", "B", "")
        say("c", "How good is the answer (1 to 5)?", "2", "bob")
        mlflow.log_expectation(
            trace_id=traces["c" * 16].info.trace_id, name=CORRECTION, value="Residents only.", source=AssessmentSource("HUMAN", "bob")
        )
    finally:
        mlflow.set_tracking_uri(before)

    again = export_queue(uri, list(items.values()), "weekly", ["alice", "bob"])
    assert (again["added"], again["known"]) == (0, 3)
    assert mlflow.get_tracking_uri() == before
    opinions = check_opinions(import_opinions(uri, items, "weekly"), items)
    assert review(items, opinions).votes == {
        "a" * 16: {"alice": True},
        "b" * 16: {"alice": "A", "bob": "A", "default": "B"},
        "c" * 16: {"bob": 2},
    }
    assert [o.corrected for o in opinions if o.corrected] == ["Residents only."]

    other = Item("d" * 16, "score", "q", ("a",), None, (), {"id": "q4"}, scale=Scale(1, 3, 2))
    with pytest.raises(InputError, match="asks other questions"):
        export_queue(uri, [other], "weekly")
