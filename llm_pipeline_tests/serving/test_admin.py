"""The admin API over a database without processes: what it writes is what supervisor and gateways would read."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from llm_pipeline.errors import ConfigError
from llm_pipeline.records import Release
from llm_pipeline.serving.admin.app import Admin, build_app, tls_of
from llm_pipeline.serving.admin.models import KeyLimits, RolloutSettings
from llm_pipeline.serving.protection.keys import Limits, key_hash
from llm_pipeline.serving.protection.leases import Ledger, Order
from llm_pipeline.serving.supervision.processes import free_port, start
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.state import Engine, Spec, State
from llm_pipeline.store import Home
from llm_pipeline_tests.certificates import self_signed

SPEC = Spec("/model", {"grounded": "{passages}{question}"}, {})


class Api:
    """The API with a key of scope admin."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        self.identity, self.secret = self.state.keys.create("ops", ["admin"])
        self.app = build_app(folder)
        self._client = TestClient(self.app, raise_server_exceptions=False)

    def __call__(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key or self.secret}"} if key != "" else {}
        reply = self._client.request(method, path, json=body, headers=headers)
        return reply.status_code, reply.json()

    def release(self, name: str) -> str:
        return self.state.register(Release(name, "p", None, "g", {"name": "transformers"}), SPEC)

    def close(self) -> None:
        admin: Admin = self.app.state.admin
        self._client.close()
        for state in (self.state, admin.state):
            state.close()
        admin.database.dispose()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path / "endpoint")
    yield api
    api.close()


def test_every_operation_wants_a_key_of_scope_admin(api: Api) -> None:
    chat = api.state.keys.add("app", ["chat"])
    operations = [(method, path) for path, methods in api.app.openapi()["paths"].items() for method in methods]
    assert len(operations) >= 20
    for method, path in operations:
        if path == "/healthz":
            assert api(method, path, key="") == (200, {"status": "ok"})
            continue
        at = path.format(release="r", rollout=1, key=1, engine="e")
        assert api(method, at, key="")[0] == 401
        assert api(method, at, key="lp-wrong")[1]["error"]["code"] == "invalid_api_key"
        assert api(method, at, key=chat)[1]["error"]["code"] == "scope_missing"


def test_the_life_of_a_key(api: Api) -> None:
    body = {"name": "app", "scopes": ["chat"], "labels": ["acme"], "limits": {"requests_per_minute": 5.0}, "expires_in": 3600}
    status, made = api("POST", "/v1/keys", body)
    assert status == 201
    key = api.state.keys.valid()[key_hash(made["secret"])]
    assert (key.labels, key.limits) == ({"acme"}, Limits(requests_per_minute=5))
    where = f"/v1/keys/{made['id']}"
    assert api("PATCH", where, {"limits": {"concurrent": 2}})[1]["limits"]["concurrent"] == 2
    assert api("PATCH", where, {})[1]["labels"] == ["acme"]
    _, rotated = api("POST", f"{where}/rotate", {"overlap_seconds": 60})
    assert {key_hash(made["secret"]), key_hash(rotated["secret"])} < set(api.state.keys.valid())
    ledger = Ledger(api.app.state.admin.database, "gateway")
    ledger.sync([Order(made["id"], kind, 10**9, 0, 0, spent=7) for kind in ("month_tokens", "month_cost")], time.time())
    assert api("GET", f"{where}/usage")[1] | {"month": ""} == {"month": "", "tokens": 7, "cost": 7e-6}
    assert api("DELETE", where) == (200, {"ok": True})
    assert api("DELETE", where)[0] == 404
    shown = json.dumps(api("GET", "/v1/keys")[1])
    assert "app" in shown
    assert made["secret"] not in shown
    assert key_hash(made["secret"]) not in shown


def test_a_key_does_not_lock_itself_out(api: Api) -> None:
    assert api("DELETE", f"/v1/keys/{api.identity}")[0] == 409
    assert api("PATCH", f"/v1/keys/{api.identity}", {"expires_in": 1})[0] == 409
    assert api("GET", "/v1/keys")[1][0]["last_used"] is not None


def test_traffic_is_shared_out_and_its_history_kept(api: Api) -> None:
    a, b = api.release("a"), api.release("b")
    status, now = api("PUT", "/v1/traffic", {"weights": {a: 9, b: 1}, "reason": "try"})
    assert (status, now["weights"]) == (200, {a: 0.9, b: 0.1})
    assert api.state.traffic() == (now["revision"], {a: 0.9, b: 0.1})
    api.state.observe("gateway-1", now["revision"])
    assert api("GET", "/v1/traffic")[1]["observed"] == {"gateway-1": now["revision"]}
    assert api("GET", "/v1/traffic/history")[1][0]["reason"] == "try (key ops)"
    assert api("PUT", "/v1/traffic", {"weights": {"zz": 1}})[0] == 404
    assert [release["id"] for release in api("GET", "/v1/releases")[1]] == [a, b]
    assert api("GET", f"/v1/releases/{a}")[1]["model"] == "a"


def test_a_rollout_is_started_seen_and_aborted(api: Api) -> None:
    a, b = api.release("a"), api.release("b")
    assert api("GET", "/v1/rollouts/newest")[0] == 404
    api("PUT", "/v1/traffic", {"weights": {a: 1}})
    assert api("POST", "/v1/rollback")[0] == 409
    status, begun = api("POST", "/v1/rollouts", {"release": b, "config": {"steps": [0.2, 0.6], "strategy": "canary"}})
    assert (status, begun["status"], begun["previous"]) == (202, "warming", a)
    assert begun["config"] == json.loads(json.dumps(asdict(RolloutConfig(strategy="canary", steps=(0.2, 0.6)))))
    assert api("POST", f"/v1/rollouts/{begun['id']}/abort")[1]["status"] == "failed"
    newest = api("GET", "/v1/rollouts/newest")[1]
    assert (newest["release"], newest["config"]["strategy"]) == (a, "all_at_once")
    assert api("POST", f"/v1/rollouts/{begun['id']}/abort")[0] == 409
    assert api("POST", "/v1/rollouts", {"release": "zz"})[0] == 404


def test_the_first_rollout_can_be_aborted_too(api: Api) -> None:
    _, begun = api("POST", "/v1/rollouts", {"release": api.release("a")})
    assert api("POST", f"/v1/rollouts/{begun['id']}/abort")[1]["evidence"]["reason"] == "aborted"


def test_a_release_artefact_is_registered(api: Api, tmp_path: Path) -> None:
    home = Home(tmp_path)

    def model(folder: Path) -> dict[str, Any]:
        (folder / "model").mkdir()
        return {}

    candidate = home.artifacts.build("candidate_model", {"n": 1}, model)
    content = {"model": candidate.id, "prompt": "p", "index": None, "policy": "g", "engine": {"retrieval": False, "passages": 2}}
    more = {"prompt_content": SPEC.prompt, "policy_content": {}}

    def release(folder: Path) -> dict[str, Any]:
        (folder / "release.json").write_text(json.dumps(content | more))
        return {}

    artifact = home.artifacts.build("release", content, release)
    for name in (artifact.id, "latest"):
        status, shown = api("POST", "/v1/releases", {"artifact": name})
        assert (status, shown["model"]) == (201, candidate.id)
    assert api.state.spec(shown["id"]).model_path.endswith(f"{candidate.id}/model")
    assert api("POST", "/v1/releases", {"artifact": "none"})[0] == 404
    assert api("POST", "/v1/releases", {"artifact": "../../etc"})[0] == 400


def test_a_replica_is_drained_only_beside_a_ready_one(api: Api) -> None:
    one, two = (Engine(f"e-{n}", "e", "http://127.0.0.1:1", 10 + n, "ready", 0, "") for n in range(2))
    elsewhere = Engine("x-0", "x", "https://elsewhere", 0, "ready", 0, "")
    api.state.put_engines([one, elsewhere])
    assert api("POST", "/v1/engines/e-0/drain")[0] == 409
    assert "runs elsewhere" in api("POST", "/v1/engines/x-0/drain")[1]["error"]["message"]
    assert "did you mean 'e-0'" in api("POST", "/v1/engines/e-9/drain")[1]["error"]["message"]
    api.state.put_engines([one, two])
    assert api("POST", "/v1/engines/e-0/drain") == (202, {"ok": True})
    assert set(api.state.drains.asked()) == {"e-0"}
    assert [engine["name"] for engine in api("GET", "/v1/engines")[1]] == ["e-0", "e-1"]


def test_errors_name_the_field_and_repeat_nothing(api: Api) -> None:
    status, reply = api("POST", "/v1/keys", {"name": "lp-my secret", "scopes": ["chat"], "colour": "lp-my-secret"})
    assert status == 400
    assert "body.name" in reply["error"]["message"]
    assert "body.colour" in reply["error"]["message"]
    assert "secret" not in reply["error"]["message"]


def test_all_methods_of_a_path_are_named(api: Api) -> None:
    reply = TestClient(api.app).request("OPTIONS", "/v1/traffic")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, PUT")


def test_without_its_database_it_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise sa.exc.OperationalError("select", {}, OSError("away"))

    monkeypatch.setattr(api.app.state.admin.state.keys, "valid", away)
    assert api("GET", "/v1/keys")[1]["error"]["code"] == "database_unavailable"


def test_bodies_follow_the_records_that_they_become() -> None:
    defaults = RolloutConfig()
    assert RolloutSettings().model_dump() == {f.name: getattr(defaults, f.name) for f in fields(defaults)} | {"steps": list(defaults.steps)}
    assert KeyLimits().limits() == Limits()
    assert set(KeyLimits.model_fields) == {f.name for f in fields(Limits)}


def test_one_file_of_two_is_no_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both"):
        tls_of(tmp_path / "certificate.pem", None)


def test_the_process_speaks_tls_and_logs_no_secret(tmp_path: Path) -> None:
    folder, log, port = tmp_path / "endpoint", tmp_path / "admin.log", free_port()
    state, (certificate, private_key) = State(folder), self_signed(tmp_path)
    secret = state.keys.add("ops", ["admin"])
    files = ["--certificate", str(certificate), "--private-key", str(private_key)]
    process = start("llm_pipeline.serving.admin.app", ["--folder", str(folder), "--port", str(port), *files], log)
    context = ssl.create_default_context(cafile=str(certificate))

    def ask(path: str, method: str = "GET", body: bytes | None = None, key: str = secret) -> int:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        request = urllib.request.Request(f"https://localhost:{port}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as reply:
                assert reply.headers["strict-transport-security"]
                assert reply.headers["x-content-type-options"] == "nosniff"
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def up() -> bool:
        try:
            return ask("/healthz") == 200
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 60
        while not up():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask(f"/v1/keys?key={secret}") == 200
        assert ask("/v1/keys", "POST", json.dumps({"name": secret, "scopes": [secret]}).encode()) == 400
        assert ask("/v1/keys", "POST", secret.encode()) == 400
        assert ask("/v1/keys", "POST", b'{"name": "app"}') == 201
        assert ask(f"/v1/keys/{secret}", "DELETE") == 400
        assert ask("/v1/keys", key=f"{secret}x") == 401
    finally:
        process.terminate()
        process.wait(20)
        state.close()
    written = log.read_text()
    assert "key ops: POST /v1/keys" in written
    assert secret not in written
