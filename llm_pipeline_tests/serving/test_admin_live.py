"""The admin API that the supervisor runs, beside real gateways and engines."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from llm_pipeline.serving.traffic.database import settings
from llm_pipeline.serving.traffic.state import State
from llm_pipeline_tests.serving.conftest import Live

pytestmark = pytest.mark.slow


def ask(url: str, key: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, None


def until(found: Any, wanted: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while (now := found()) != wanted:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)


def test_the_endpoints_own_admin_api(live: Live) -> None:
    known = settings(live.home.endpoint)
    base, admin = f"{known['admin_url']}/v1", known["keys"]["admin"]
    until(lambda: ask(f"{base}/traffic", admin)[0], 200)
    _, traffic = ask(f"{base}/traffic", admin)
    assert traffic["weights"] == State(live.home.endpoint).traffic()[1]
    until(lambda: set(ask(f"{base}/traffic", admin)[1]["observed"].values()), {traffic["revision"]})
    assert "ready" in [engine["state"] for engine in ask(f"{base}/engines", admin)[1]]
    assert ask(f"{base}/traffic", live.endpoint.key)[0] == 403

    _, made = ask(f"{base}/keys", admin, "POST", {"name": "app", "limits": {"requests_per_minute": 1}})
    chat = f"{live.endpoint.url}/v1/chat/completions"
    question = {"messages": [{"role": "user", "content": "What is the fee?"}], "max_tokens": 4}
    until(lambda: ask(f"{live.endpoint.url}/v1/models", made["secret"])[0], 200)
    until(lambda: ask(chat, made["secret"], "POST", question)[0], 200)  # two gateways: the other one learns of it later
    until(
        lambda: ask(chat, made["secret"], "POST", question)[1].get("error", {}).get("code"), "rate_limit_exceeded"
    )  # or a new minute began
    _, rotated = ask(f"{base}/keys/{made['id']}/rotate", admin, "POST", {"overlap_seconds": 0})
    until(lambda: ask(f"{live.endpoint.url}/v1/models", made["secret"])[0], 401)
    until(lambda: ask(f"{live.endpoint.url}/v1/models", rotated["secret"])[0], 200)  # two gateways: the other one learns of it later
    assert ask(f"{base}/keys/{made['id']}", admin, "DELETE")[0] == 200
    until(lambda: ask(f"{live.endpoint.url}/v1/models", rotated["secret"])[0], 401)


def test_the_only_engine_is_not_drained(live: Live) -> None:
    known = settings(live.home.endpoint)
    ready = [replica for replica in State(live.home.endpoint).engines().values() if replica.state == "ready"]
    engine = next(one.name for one in ready if sum(other.engine == one.engine for other in ready) == 1)
    status, reply = ask(f"{known['admin_url']}/v1/engines/{engine}/drain", known["keys"]["admin"], "POST")
    assert status == 409
    assert "no ready replica beside it" in reply["error"]["message"]
