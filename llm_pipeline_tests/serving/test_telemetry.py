"""Traces: what a collector gets of an interaction, and that no collector can hold up or break anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from llm_pipeline.errors import ConfigError
from llm_pipeline.records import Interaction
from llm_pipeline.serving.observability.otlp import CLIENT as CLIENT_KIND
from llm_pipeline.serving.observability.otlp import Span, encode
from llm_pipeline.serving.observability.telemetry import Collector, Telemetry, TelemetrySettings, trace_of
from llm_pipeline_tests.serving.collector import Received, attributes, collector
from llm_pipeline_tests.serving.gateways import FakeEngine, gateway, served
from llm_pipeline_tests.serving.test_cache import answered

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def item(**changes: Any) -> Interaction:
    full = replace(
        answered("5 €"), messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Fee?"}], variant="B",
        passages=[{"id": "p1", "score": 0.5, "uri": "u"}], guardrails=["input:flagged"], cost=0.25, cache="miss", prompt={"id": "p"},
        guardrail_events=[{"rule": "input:flagged", "action": "flag", "score": 0.9}], trace_id=TRACE, span_id="b" * 16,
        parent_span_id=CLIENT, parameters={"model": "default", "temperature": 0.0, "max_tokens": 8, "seed": 3, "stop": ("x",)},
        seconds={"queue": 0.01, "guardrails": 0.02, "retrieval": 0.03, "first_token": 0.2, "total": 0.5},
        upstreams=[{"name": "small", "status": 200, "provider": "openai"}],
    )  # fmt: skip
    return replace(full, **changes)


def settings(received: Received, **changes: Any) -> TelemetrySettings:
    plain = TelemetrySettings((Collector(received.url, {"x-tenant": "bank"}),), delay_seconds=0.01, timeout_seconds=2.0)
    return replace(plain, **changes)


def test_an_interaction_becomes_spans_of_the_clients_trace() -> None:
    with collector() as received:
        telemetry = Telemetry(settings(received))
        telemetry.record(item())
        telemetry.close(10)
    assert telemetry.counts == {"sent": 1, "dropped": 0, "failed": 0}
    assert received.headers[0]["x-tenant"] == "bank"
    assert received.resources == [{"service.name": "llm-pipeline-gateway"}]
    spans = {span.name: span for span in received.spans}
    assert list(spans) == ["POST /v1/chat/completions", "guardrails", "retrieval", "chat default"]
    root = spans.pop("POST /v1/chat/completions")
    assert (root.span_id.hex(), root.parent_span_id.hex(), root.kind) == ("b" * 16, CLIENT, 2)
    assert {span.trace_id.hex() for span in received.spans} == {TRACE}
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    assert root.end_time_unix_nano - root.start_time_unix_nano == pytest.approx(0.5e9, abs=1)
    for span in spans.values():
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    asked = attributes(spans["chat default"])
    assert asked | {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.temperature": 0.0, "gen_ai.request.seed": 3,
        "gen_ai.request.max_tokens": 8, "gen_ai.request.stop_sequences": ["x"], "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2, "gen_ai.response.finish_reasons": ["stop"], "gen_ai.response.id": "i1",
    } == asked  # fmt: skip
    assert attributes(root)["llm_pipeline.variant"] == "B"
    assert attributes(spans["guardrails"])["llm_pipeline.guardrails.actions"] == ["flag"]
    assert json.loads(attributes(spans["retrieval"])["gen_ai.retrieval.documents"]) == [{"id": "p1", "score": 0.5}]
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    used = {name for span in received.spans for name in attributes(span) if name.startswith("gen_ai.")}
    assert len(used) > 10
    assert used <= known


def test_texts_are_sent_only_when_the_setting_says_so() -> None:
    for content in (False, True):
        with collector() as received:
            telemetry = Telemetry(settings(received, content=content))
            telemetry.record(vars(item()))
            telemetry.close(10)
        everything = json.dumps([attributes(span) for span in received.spans], ensure_ascii=False)
        assert ("Fee?" in everything, "5 €" in everything, "Be brief." in everything) == (content,) * 3
    said = {name: value for span in received.spans for name, value in attributes(span).items()}
    assert json.loads(said["gen_ai.input.messages"]) == [{"role": "user", "parts": [{"type": "text", "content": "Fee?"}]}]
    assert json.loads(said["gen_ai.output.messages"])[0]["finish_reason"] == "stop"


def test_an_answer_from_memory_asked_no_model_and_a_failure_is_an_error() -> None:
    with collector() as received:
        telemetry = Telemetry(settings(received))
        telemetry.record(item(cache="hit", passages=[], seconds={"total": 0.001}, parent_span_id=""))
        telemetry.record(item(finish_reason="error", status=503, error="engine_unavailable"))
        telemetry.close(10)
    first, second = (span for span in received.spans if span.name == "POST /v1/chat/completions")
    assert [span.name for span in received.spans if span.parent_span_id == first.span_id].count("chat default") == 1  # the second's
    assert (first.status.code, second.status.code, attributes(second)["error.type"]) == (0, 2, "engine_unavailable")
    assert first.parent_span_id == b""


def test_a_hanging_collector_costs_counted_spans_and_no_time() -> None:
    with collector() as received:
        received.hold.clear()
        telemetry = Telemetry(settings(received, most_waiting=3, batch=1, timeout_seconds=30))
        telemetry.record(item())
        assert received.arrived.acquire(timeout=30)
        for _ in range(10):
            telemetry.record(item())
        assert telemetry.counts["dropped"] == 7
        received.hold.set()
        telemetry.close(30)
    assert telemetry.counts == {"sent": 4, "dropped": 7, "failed": 0}


def test_a_collector_that_refuses_or_is_gone_is_counted() -> None:
    with collector() as received:
        received.status = 400
        refused = Telemetry(settings(received))
        refused.record(item())
        refused.close(10)
    gone = Telemetry(TelemetrySettings((Collector(received.url),), delay_seconds=0.01, timeout_seconds=0.2))
    gone.record(item())
    gone.close(10)
    assert (refused.counts["failed"], gone.counts["failed"]) == (1, 1)


def test_a_busy_collector_is_tried_again() -> None:
    with collector() as received:
        received.status = 503
        received.hold.clear()
        telemetry = Telemetry(settings(received, timeout_seconds=30))
        telemetry.record(item())
        assert received.arrived.acquire(timeout=30)
        received.hold.set()
        assert received.arrived.acquire(timeout=30)  # the second try
        received.status = 200
        telemetry.close(30)
    assert telemetry.counts == {"sent": 1, "dropped": 0, "failed": 0}


def test_every_kind_of_value_is_read_as_it_was() -> None:
    values = {"no": False, "low": -7, "high": 1 << 40, "real": -0.5, "texts": ["é", ""], "none of these": Path("x"), "long": "ü" * 300}
    span = Span("s" * 200, CLIENT_KIND, TRACE, CLIENT, "", 1, 1 << 62, values, error="broken")
    [read] = ExportTraceServiceRequest.FromString(encode([span], "me")).resource_spans[0].scope_spans[0].spans
    assert attributes(read) == {**values, "none of these": "x"}
    assert (read.name, read.kind, read.end_time_unix_nano, read.status.message, read.parent_span_id) == (
        "s" * 200,
        3,
        1 << 62,
        "broken",
        b"",
    )


def test_a_share_of_the_traces_is_sent_whole_and_by_their_id() -> None:
    with collector() as received:
        telemetry = Telemetry(settings(received, share=0.5))
        for first in ("00", "7f", "80", "ff"):
            telemetry.record(item(trace_id="a" * 18 + first + "0" * 12))
        telemetry.close(10)
    assert {span.trace_id.hex()[18:20] for span in received.spans} == {"00", "7f"}


def test_the_clients_trace_is_taken_on_and_a_wrong_one_is_not() -> None:
    given = trace_of(f"00-{TRACE}-{CLIENT}-01")
    assert (given.trace_id, given.parent_span_id) == (TRACE, CLIENT)
    assert given.header == f"00-{TRACE}-{given.span_id}-01"
    assert trace_of(f"cc-{TRACE}-{CLIENT}-01-more").trace_id == TRACE
    zero_trace, zero_span = f"00-{'0' * 32}-{CLIENT}-01", f"00-{TRACE}-{'0' * 16}-01"
    too_long, upper = f"00-{TRACE}-{CLIENT}-01-more", f"00-{TRACE.upper()}-{CLIENT}-01"
    for wrong in (None, "", "x", f"ff-{TRACE}-{CLIENT}-01", too_long, upper, zero_trace, zero_span):
        made = trace_of(wrong)
        assert made.trace_id not in (TRACE, TRACE.upper(), "0" * 32), wrong
        assert (len(made.trace_id), len(made.span_id), made.parent_span_id) == (32, 16, "")
    assert trace_of(None).trace_id != trace_of(None).trace_id


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="expected a URL"):
        Collector("localhost:4318")
    with pytest.raises(ConfigError, match="expected a share"):
        TelemetrySettings(share=2)
    Telemetry().record(item())  # off


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # within MLflow
def test_mlflow_takes_the_spans_as_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from fastapi import FastAPI
    from mlflow.server import handlers
    from mlflow.server.otel_api import otel_router

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("traffic")
    monkeypatch.setattr(handlers, "_tracking_store", client._tracking_client.store)
    app = FastAPI()
    app.include_router(otel_router)
    with served(app) as url:  # the part of MLflow's server that takes spans
        collectors = (Collector(f"{url}/v1/traces", {"x-mlflow-experiment-id": experiment}),)
        telemetry = Telemetry(TelemetrySettings(collectors, content=True, delay_seconds=0.01, timeout_seconds=60))
        telemetry.record(item(parent_span_id=""))
        telemetry.close(60)
    assert telemetry.counts == {"sent": 1, "dropped": 0, "failed": 0}
    [trace] = client.search_traces(locations=[experiment])
    spans = {span.name: span for span in trace.data.spans}
    assert spans["chat default"].span_type == "CHAT_MODEL"
    assert spans["chat default"].inputs == [{"role": "user", "parts": [{"type": "text", "content": "Fee?"}]}]
    assert trace.info.token_usage == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    assert trace.info.execution_duration == 500


def test_a_gateway_takes_the_clients_trace_to_its_engine_and_its_collector_without_secrets(tmp_path: Path) -> None:
    engine = FakeEngine(["ask mary@example.org", " now"])
    with collector() as received, served(engine) as url:
        telemetry = {"collectors": [{"endpoint": received.url}], "content": True, "delay_seconds": 0.01}
        raw = {"upstreams": {"a": {"url": url}}, "telemetry": telemetry, "interactions": {"scrub": "pii"}}
        with gateway(tmp_path, raw) as place:
            body = {
                "model": "default",
                "messages": [{"role": "user", "content": "I am mary@example.org. Whom do I ask?"}],
                "temperature": 0.5,
            }
            headers = {"authorization": f"Bearer {place.key}", "traceparent": f"00-{TRACE}-{CLIENT}-01"}
            reply = httpx.post(f"{place.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
            assert reply.status_code == 200
            assert received.arrived.acquire(timeout=30)
            [row] = place.logged()
    spans = {span.name: span for span in received.spans}
    root = spans["POST /v1/chat/completions"]
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.span_id.hex()) == (TRACE, CLIENT, row["span_id"])
    assert engine.headers[0]["traceparent"] == f"00-{TRACE}-{row['span_id']}-01"
    assert attributes(spans["chat default"])["gen_ai.request.temperature"] == 0.5
    everything = json.dumps([attributes(span) for span in received.spans])
    assert "[EMAIL_ADDRESS]" in everything
    assert "mary" not in everything + json.dumps(row)
    assert place.key not in everything + json.dumps(row)
