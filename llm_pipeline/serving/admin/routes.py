"""The operations of the admin API: what is wanted goes into the endpoint's database, what was seen comes out of it."""

from __future__ import annotations

import time
from dataclasses import asdict

from fastapi import FastAPI

from llm_pipeline.errors import EndpointError, MissingError
from llm_pipeline.serving.admin import models as models
from llm_pipeline.serving.admin.models import Id, Number
from llm_pipeline.serving.admin.place import Admin, Caller, The
from llm_pipeline.serving.protection.keys import Key
from llm_pipeline.serving.protection.leases import MICRO, MONTH_COST, MONTH_TOKENS, month_of, used
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.state import Registered, Rollout


def add_releases(app: FastAPI) -> None:
    @app.get("/v1/releases")
    def releases(_: Caller, admin: The) -> list[models.ReleaseReply]:
        return [_release(name, found) for name, found in admin.state.registered().items()]

    @app.post("/v1/releases", status_code=201)
    def register(_: Caller, admin: The, body: models.Registering) -> models.ReleaseReply:
        """Make a release artefact of this home known to the endpoint; it gets traffic by a rollout or by traffic weights."""
        from llm_pipeline.serving.traffic.release import resolve

        artifacts = admin.home.artifacts
        named = artifacts.has("release", body.artifact)
        identity = admin.state.register(*resolve(admin.home, (artifacts.named if named else artifacts.get)("release", body.artifact)))
        return _release(identity, admin.state.find(identity))

    @app.get("/v1/releases/{release}")
    def release(_: Caller, admin: The, release: Id) -> models.ReleaseReply:
        return _release(release, admin.state.find(release))


def add_traffic(app: FastAPI) -> None:
    def reply(admin: Admin) -> models.TrafficReply:
        revision, weights, shadow = admin.state.traffic_and_shadow()
        observed = {name: seen for name, (seen, _) in admin.state.observations().items()}
        return models.TrafficReply(revision=revision, weights=weights, shadow=shadow, observed=observed)

    @app.get("/v1/traffic")
    def traffic(_: Caller, admin: The) -> models.TrafficReply:
        return reply(admin)

    @app.put("/v1/traffic")
    def set_traffic(key: Caller, admin: The, body: models.SetTraffic) -> models.TrafficReply:
        """Share the requests out at once, without a rollout's checks."""
        total = sum(body.weights.values())
        shares = {name: weight / total for name, weight in body.weights.items()}
        admin.state.set_traffic(shares, f"{body.reason} (key {key.name})", shadow=body.shadow)
        return reply(admin)

    @app.get("/v1/traffic/history")
    def history(_: Caller, admin: The) -> list[models.TrafficRecord]:
        return [models.TrafficRecord(**row) for row in admin.state.history(100)]

    @app.post("/v1/rollback", status_code=202)
    def rollback(_: Caller, admin: The) -> models.RolloutReply:
        """Give all traffic back: to what a rollout under way would replace, else to the release before the current one."""
        return _rollout(admin.rollout(client.rollback(admin.home)))


def add_rollouts(app: FastAPI) -> None:
    @app.post("/v1/rollouts", status_code=202)
    def start(_: Caller, admin: The, body: models.StartRollout) -> models.RolloutReply:
        return _rollout(admin.rollout(admin.state.begin_rollout(body.release, body.config.model_dump())))

    @app.get("/v1/rollouts/newest")
    def newest(_: Caller, admin: The) -> models.RolloutReply:
        return _rollout(admin.rollout(None))

    @app.get("/v1/rollouts/{rollout}")
    def one(_: Caller, admin: The, rollout: Number) -> models.RolloutReply:
        return _rollout(admin.rollout(rollout))

    @app.post("/v1/rollouts/{rollout}/abort")
    def abort(_: Caller, admin: The, rollout: Number) -> models.RolloutReply:
        return _rollout(admin.abort(rollout))


def add_keys(app: FastAPI) -> None:
    @app.get("/v1/keys")
    def keys(_: Caller, admin: The) -> list[models.KeyReply]:
        return [models.KeyReply.of(key) for key in admin.state.keys.listed()]

    @app.post("/v1/keys", status_code=201)
    def make(_: Caller, admin: The, body: models.MakeKey) -> models.SecretReply:
        identity, secret = admin.state.keys.create(
            body.name, sorted(set(body.scopes)), labels=body.labels, limits=body.limits.limits(), expires_at=body.expires_at()
        )
        return models.SecretReply(id=identity, secret=secret)

    @app.get("/v1/keys/{key}")
    def one(_: Caller, admin: The, key: Number) -> models.KeyReply:
        return models.KeyReply.of(admin.key(key))

    @app.patch("/v1/keys/{key}")
    def change(caller: Caller, admin: The, key: Number, body: models.ChangeKey) -> models.KeyReply:
        _refuse_own(caller, key)
        admin.state.keys.change(key, **body.values())
        return models.KeyReply.of(admin.key(key))

    @app.post("/v1/keys/{key}/rotate")
    def rotate(_: Caller, admin: The, key: Number, body: models.RotateKey) -> models.SecretReply:
        return models.SecretReply(id=key, secret=admin.state.keys.rotate(key, body.overlap_seconds))

    @app.delete("/v1/keys/{key}")
    def revoke(caller: Caller, admin: The, key: Number) -> models.Done:
        _refuse_own(caller, key)
        if not admin.state.keys.revoke(key):
            raise MissingError(f"no key {key} in force")
        return models.Done()

    @app.get("/v1/keys/{key}/usage")
    def usage(_: Caller, admin: The, key: Number) -> models.UsageReply:
        """What is written down of this month; what requests under way use follows within a second of their end."""
        admin.key(key)
        spent = used(admin.database, key, time.time())
        return models.UsageReply(month=month_of(time.time()), tokens=spent.get(MONTH_TOKENS, 0), cost=spent.get(MONTH_COST, 0) / MICRO)


def add_engines(app: FastAPI) -> None:
    @app.get("/healthz", responses={})
    def healthz() -> models.Health:
        return models.Health(status="ok")

    @app.get("/v1/engines")
    def engines(_: Caller, admin: The) -> list[models.EngineReply]:
        return [models.EngineReply(**asdict(engine)) for engine in admin.state.engines().values()]

    @app.post("/v1/engines/{engine}/drain", status_code=202)
    def drain(_: Caller, admin: The, engine: Id) -> models.Done:
        """Renew one replica without failing a request: it gets no more of them, finishes what it answers, and a new one starts."""
        admin.drain(engine)
        return models.Done()


def _refuse_own(caller: Key, key: int) -> None:
    if caller.id == key:
        raise EndpointError("a key cannot change or revoke itself; another key of scope admin can, or `llm-pipeline endpoint key`")


def _release(identity: str, found: Registered) -> models.ReleaseReply:
    return models.ReleaseReply(id=identity, **asdict(found.release), replicas=found.replicas)


def _rollout(rollout: Rollout) -> models.RolloutReply:
    evidence = {name: value for name, value in rollout.evidence.items() if name != "marks"}
    return models.RolloutReply(**{**asdict(rollout), "evidence": evidence}, finished=rollout.finished)
