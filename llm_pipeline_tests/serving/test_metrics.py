"""The numbers that the gateway shows, and that Prometheus' alerts and Grafana's dashboard ask for numbers that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_pipeline.config import load_yaml
from llm_pipeline.paths import DATA
from llm_pipeline.serving.observability.metrics import Metrics
from llm_pipeline_tests.serving.test_cache import answered

MONITORING = DATA.parent / "infra" / "monitoring"


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """(name, label value...) -> number."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = [f"{name}={value}" for name, value in sorted(sample.labels.items()) if value]
            found[(sample.name, *labels)] = sample.value
    return found


def filled(folder: Path | None = None) -> Metrics:
    metrics = Metrics(folder)
    metrics.watch("llm_spans", "Interactions sent to collectors", "outcome", lambda: {"sent": 1})
    metrics.watch("llm_log", "Rows", "outcome", lambda: {"written": 1})
    metrics.watch("llm_cache", "Answers", "outcome", lambda: {"hit": 1})
    row = replace(
        answered("5"), variant="B", cache="miss", cost=0.5, guardrails=["output:email"], upstreams=[{"name": "small", "status": 200}],
        guardrail_events=[{"rule": "output:email", "action": "redact", "score": 1.0}],
        seconds={"queue": 0.001, "guardrails": 0.002, "retrieval": 0.01, "first_token": 0.25, "total": 0.3},
    )  # fmt: skip
    metrics.finished(row)
    metrics.finished(replace(row, finish_reason="error", status=503, seconds={"total": 100.0}))
    metrics.refused(429, "rate_limit_exceeded")
    metrics.opinion(1.0)
    metrics.opinion(None)
    metrics.traffic({"r0": 1.0})
    metrics.traffic({"r1": 0.9, "r2": 0.1})
    metrics.in_flight.inc()
    return metrics


def test_an_interaction_is_counted_by_release_arm_outcome_and_cache() -> None:
    found = samples(filled())
    arm = ("release=r1", "variant=B")
    assert found["llm_requests_total", "cache=miss", "finish_reason=stop", "release=r1", "status=200", "variant=B"] == 1
    assert found["llm_requests_total", "cache=miss", "finish_reason=error", "release=r1", "status=503", "variant=B"] == 1
    assert found["llm_tokens_total", "kind=completion", *arm] == 4
    assert found["llm_cost_total", *arm] == 1.0
    assert found["llm_guardrail_hits_total", "action=redact", "rule=output:email"] == 2
    assert found["llm_upstream_attempts_total", "status=200", "upstream=small"] == 2
    assert found["llm_refused_total", "code=rate_limit_exceeded", "status=429"] == 1
    assert (found["llm_feedback_total", "rating=up"], found["llm_feedback_total", "rating=none"]) == (1, 1)
    assert found["llm_requests_in_flight",] == 1
    assert {key[1] for key in found if key[0] == "llm_traffic_share"} == {"release=r1", "release=r2"}


def test_histograms_are_cumulative_and_a_bound_belongs_to_its_bucket() -> None:
    found = samples(filled())
    buckets = {key[1]: value for key, value in found.items() if key[0] == "llm_first_token_seconds_bucket"}
    assert (buckets["le=0.1"], buckets["le=0.25"], buckets["le=+Inf"]) == (0, 1, 1)
    total = {key[1]: value for key, value in found.items() if key[0] == "llm_request_seconds_bucket"}
    assert (total["le=0.5"], total["le=60.0"], total["le=+Inf"]) == (1, 1, 2)
    assert found["llm_request_seconds_sum", "release=r1", "variant=B"] == pytest.approx(100.3)
    assert found["llm_request_seconds_count", "release=r1", "variant=B"] == 2


OTHER = """
import sys, time
from pathlib import Path
from llm_pipeline.serving.observability.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.refused(401, "invalid_api_key")
metrics.share()
print("shared", flush=True)
sys.stdin.read()
"""


def test_gateways_of_one_port_show_one_another_until_they_end(tmp_path: Path) -> None:
    mine = Metrics(tmp_path)
    mine.refused(401, "invalid_api_key")
    mine.share()
    with subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "shared\n"
        for _ in range(2):
            found = {key[2]: value for key, value in samples(mine).items() if key[0] == "llm_refused_total"}
            assert found == {f"gateway={os.getpid()}": 1, f"gateway={other.pid}": 1}
        other.kill()
    assert [key[2] for key in samples(mine) if key[0] == "llm_refused_total"] == [f"gateway={os.getpid()}"]
    assert len(list(tmp_path.glob("*.json"))) == 1


def expressions() -> Iterator[tuple[str, str]]:
    for group in load_yaml(MONITORING / "alerts.yaml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((MONITORING / "grafana" / "endpoint.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_alerts_and_panels_ask_for_numbers_that_exist(where: str, expression: str) -> None:
    labels: dict[str, set[str]] = {}
    families = text_string_to_metric_families(filled(Path("no-such-folder")).text().decode())
    for sample in (sample for family in families for sample in family.samples):
        labels.setdefault(sample.name, set()).update(sample.labels)
    labels["up"] = {"job", "instance"}
    assert expression.count("(") == expression.count(")")
    names = re.findall(r"\b(?:llm_\w+|up)\b", expression)
    assert names, where
    for name in names:
        assert name in labels, where
    for name, matchers in re.findall(r"\b(llm_\w+|up)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= labels[name], where
    used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    assert used <= set().union(*(labels[name] for name in names)), where


def test_prometheus_reads_the_alerts_that_are_there() -> None:
    config: Any = load_yaml(MONITORING / "prometheus.yaml")
    assert all((MONITORING / name).is_file() for name in config["rule_files"])
    assert {job["job_name"] for job in config["scrape_configs"]} == {"llm-gateway"}
    mounted = [
        volume.split(":")[0] for service in load_yaml(MONITORING / "compose.yaml")["services"].values() for volume in service["volumes"]
    ]
    assert all((MONITORING / name).is_file() for name in mounted)
