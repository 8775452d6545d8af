"""Feedback: what is taken, what is refused and how, and that it is kept for the join by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_pipeline.monitoring.feedback import Opinion, read_opinions
from llm_pipeline.monitoring.interactions import interactions_table, read_segments
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.observability.feedback import MOST_CHARACTERS, Feedback, parse_feedback
from llm_pipeline_tests.serving.gateways import FakeEngine, Place, gateway, served
from llm_pipeline_tests.serving.test_interactions import no_file_longer_than


@pytest.mark.parametrize(
    ("said", "rating"), [("up", 1.0), ("down", -1.0), (1, -1.0), (2, -0.5), (3, 0.0), (4.5, 0.75), (5, 1.0), (None, None)]
)
def test_ratings_of_both_kinds_are_on_one_scale(said: Any, rating: float | None) -> None:
    assert parse_feedback({"interaction_id": "i", "rating": said, "comment": "c"}) == Feedback("i", rating, "c")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected a JSON object, received list"),
        ({}, "interaction_id: expected the id"),
        ({"interaction_id": ""}, "interaction_id: expected the id"),
        ({"interaction_id": 5, "rating": "up"}, "interaction_id: expected the id"),
        ({"interaction_id": "i"}, "at least one of rating, comment and correction"),
        ({"interaction_id": "i", "rating": "UP"}, "rating: received 'UP', expected 'up', 'down' or a number from 1 to 5"),
        ({"interaction_id": "i", "rating": True}, "rating: received 'True'"),
        ({"interaction_id": "i", "rating": 0}, "rating: received '0'"),
        ({"interaction_id": "i", "rating": float("nan")}, "rating: received 'nan'"),
        ({"interaction_id": "i", "coment": "x"}, "unsupported field 'coment'; did you mean 'comment'"),
        ({"interaction_id": "i", "comment": "x" * (MOST_CHARACTERS + 1)}, "comment: expected a text of at most"),
        ({"interaction_id": "i", "correction": ["x"]}, "correction: expected a text"),
        ({"interaction_id": "i", "comment": "\ud800"}, "comment: not valid Unicode"),
        ({"interaction_id": "\ud800", "rating": "up"}, "interaction_id: not valid Unicode"),
    ],
)
def test_what_is_wrong_is_named(body: Any, message: str) -> None:
    with pytest.raises(HttpError) as refused:
        parse_feedback(body)
    assert refused.value.status == 400
    assert message in refused.value.message
    assert refused.value.body()["error"]["type"] == "invalid_request_error"


def say(place: Place, **body: Any) -> httpx.Response:
    return httpx.post(f"{place.url}/v1/feedback", json=body, headers={"authorization": f"Bearer {place.key}"}, timeout=30)


def test_feedback_to_a_gateway_joins_its_interactions(tmp_path: Path) -> None:
    with served(FakeEngine(["5", " €"])) as url, gateway(tmp_path, {"upstreams": {"a": {"url": url}}}) as place:
        body = {"model": "default", "messages": [{"role": "user", "content": "Fee?"}]}
        reply = httpx.post(f"{place.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {place.key}"}, timeout=30)
        identity = reply.headers["x-interaction-id"]
        for _ in range(2):
            assert say(place, interaction_id=identity, rating="down").status_code == 200
        assert say(place, interaction_id=identity, correction="6 €", comment="it rose").status_code == 200
        assert say(place, interaction_id="unknown", rating=5).status_code == 200
        with no_file_longer_than(0):
            refused = say(place, interaction_id=identity, rating="up")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_failed")
        metrics = httpx.get(f"{place.url}/metrics", timeout=30).text
        assert 'rating="down"' in metrics
        opinions = read_opinions(tmp_path / "feedback")
    interactions = read_segments(tmp_path / "interactions").interactions
    assert opinions == {identity: Opinion(-1.0, "it rose", "6 €"), "unknown": Opinion(1.0)}
    day = interactions[0].received_at[:10]
    [row] = interactions_table(interactions, day, opinions).to_pylist()
    assert (row["id"], row["answer"], row["rating"], row["correction"]) == (identity, "5 €", -1.0, "6 €")
