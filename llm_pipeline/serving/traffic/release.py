"""Making a release of the newest parts, and rolling it out: what the assets do, without Dagster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.errors import ContractError, MissingError
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import Prompt, load_prompt
from llm_pipeline.records import Release
from llm_pipeline.serving.cache.answers import cache_settings
from llm_pipeline.serving.engine.command import parse_settings
from llm_pipeline.serving.gateway.upstream_plan import plan_of
from llm_pipeline.serving.guardrails import Guards, Policy, build_policy, load_policy
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.replay import Replay, replayable
from llm_pipeline.serving.traffic.state import Rollout, Spec, State
from llm_pipeline.store import Artifact, Artifacts, Home, write_atomically

PROMPT = DATA / "prompts" / "answer.yaml"
POLICY = DATA / "policies" / "guardrails.yaml"


def make_release(
    home: Home, engine: Mapping[str, Any], *, retrieval: bool = True, passages: int = 2, prompt: Path = PROMPT, policy: Path = POLICY
) -> Artifact:
    """The release of the newest candidate, index, prompt and policy; refuses a candidate that the gate or its safety report forbids."""
    candidate = home.artifacts.named("candidate_model")
    _refuse_unless_allowed(home, candidate)
    indexes = Artifacts(home.indexes)
    pointer = next((name for name in ("live", "latest") if indexes.has("vector_index", name)), None)
    index = indexes.named("vector_index", pointer) if pointer else None
    wording, rules = load_prompt(prompt), load_policy(policy)
    check(engine, rules, "release")
    settings = {**engine, "retrieval": retrieval and index is not None, "passages": passages}
    release = Release(candidate.id, wording.id, index.id if index else None, rules.id, settings)

    def make(folder: Path) -> Mapping[str, Any]:
        content = {"id": release.id, **asdict(release), "prompt_content": asdict(wording), "policy_content": asdict(rules)}
        write_atomically(folder / "release.json", json.dumps(content, indent=1, sort_keys=True))
        return {"release": release.id}

    return home.artifacts.build("release", asdict(release), make)


def check(engine: Mapping[str, Any], policy: Policy, where: str) -> None:
    """Refuse settings with which a gateway could not answer as they say; a gateway that meets them could only log it (`ConfigError`)."""
    parse_settings(engine)
    plan_of(engine, where)
    cache_settings(engine, where)
    Guards(policy)


def _refuse_unless_allowed(home: Home, candidate: Artifact) -> None:
    if home.artifacts.has("candidate_model", "champion") and home.artifacts.named("candidate_model", "champion").id == candidate.id:
        return  # it answers already: a new index, prompt or policy needs no new verdict on the model
    decision = home.artifacts.named("promotion_decision").json("decision.json")
    if decision["verdict"] != "promote":
        raise ContractError(
            f"candidate {candidate.id}: the verdict is {decision['verdict']}, not promote: {'; '.join(decision.get('reasons', []))}"
        )
    if decision.get("challenger", candidate.id) != candidate.id:
        raise ContractError(
            f"the promotion decision is about {decision['challenger']}, the newest candidate is {candidate.id}: decide again"
        )
    safety = home.artifacts.named("safety_report").json("report.json")
    if safety["models"]["candidate"] != candidate.id:
        raise ContractError(
            f"the safety report is about {safety['models']['candidate']}, the newest candidate is {candidate.id}: materialise it again"
        )
    if broken := [line for line in safety["broken"] if line["model"] == "candidate" and line.get("blocks", True)]:
        beyond = "; ".join(f"{line['suite']}: {line['metric']} {line['value']:.3g}, expected {_words(line['limit'])}" for line in broken)
        raise ContractError(f"candidate {candidate.id}: its safety report is beyond its limits: {beyond}")


def _words(limit: Mapping[str, float | None]) -> str:
    return " and ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in limit.items() if bound is not None)


def resolve(home: Home, artifact: Artifact) -> tuple[Release, Spec]:
    """The release of an artefact, and where its parts are on this machine."""
    content = artifact.json("release.json")
    release = Release(**{name: content[name] for name in ("model", "prompt", "index", "policy", "engine")})
    index = Artifacts(home.indexes).get("vector_index", release.index).path if release.index else None
    prompt, policy = build(Prompt, content["prompt_content"], f"release {artifact.id}"), build_policy(content["policy_content"])
    check(release.engine, policy, f"release {artifact.id}")
    model = home.artifacts.get("candidate_model", release.model).file("model")
    return release, spec_of(model, prompt, policy, index, retrieval=release.engine["retrieval"], passages=release.engine["passages"])


def spec_of(model: Path, prompt: Prompt, policy: Policy, index: Path | None = None, *, retrieval: bool = False, passages: int = 2) -> Spec:
    return Spec(str(model.resolve()), asdict(prompt), asdict(policy), str(index.resolve()) if index else None, retrieval, passages)


def roll_out(
    home: Home,
    artifact: Artifact,
    config: RolloutConfig,
    *,
    replay: int = 0,
    each: Callable[[Rollout], None] | None = None,
    database: str | None = None,
    gateways: int | None = None,
) -> Artifact:
    """Move traffic to a release and record what was seen in rollout.json; one that has all traffic already is left as it is.

    `database` and `gateways` are for an endpoint that does not run yet.
    """
    release, spec = resolve(home, artifact)
    endpoint = client.ensure_up(home, database=database, gateways=gateways)
    state = State(home.endpoint)
    current = state.rollout()
    if current is not None and current.release == release.id and current.status == "promoted" and state.traffic()[1] == {release.id: 1.0}:
        rollout = current
        client.wait_ready(home)
    else:
        began = time.monotonic()
        with Replay(endpoint, replayable(home, replay) if replay else []) as load:
            rollout = client.wait(home, client.deploy(home, release, spec, config), config.max_seconds + 60, each)
        rollout.evidence.update(seconds=round(time.monotonic() - began, 1), replayed=load.sent)
    if rollout.status == "promoted":
        _crown(home, release)
    return _recorded(home, "deployed_endpoint", rollout, endpoint.url)


def roll_back(home: Home, timeout: float = 120.0) -> Artifact:
    """Give all traffic back to the release before, wait until every gateway acts on it, and record it (rollout.json)."""
    began = time.monotonic()
    rollout = client.wait(home, client.rollback(home), timeout)
    rollout.evidence["seconds"] = round(time.monotonic() - began, 3)
    release = State(home.endpoint).find(rollout.release).release
    if rollout.status == "promoted":
        with suppress(MissingError):  # a release of a model that is none of our artefacts has no champion to be
            _crown(home, release)
    return _recorded(home, "rollback", rollout, client.endpoint(home).url)


def _recorded(home: Home, name: str, rollout: Rollout, url: str) -> Artifact:
    record = asdict(rollout) | {"evidence": {k: v for k, v in rollout.evidence.items() if k != "marks"}, "url": url}

    def make(folder: Path) -> Mapping[str, Any]:
        write_atomically(folder / "rollout.json", json.dumps(record, indent=1, sort_keys=True, default=str))
        return {"status": rollout.status, "release": rollout.release}

    return home.artifacts.build(name, {"release": rollout.release, "rollout": rollout.id, "asked_at": rollout.created_at}, make)


def _crown(home: Home, release: Release) -> None:
    """The model that answers everybody is the champion, here and in the registry."""
    candidate = home.artifacts.get("candidate_model", release.model)
    home.artifacts.point("candidate_model", "champion", release.model)
    from llm_pipeline.training.tracking import register

    tags = {"candidate": candidate.id, **{key: str(value) for key, value in candidate.inputs.items()}}
    register(home.mlflow_uri, candidate.file("model"), str(candidate.info.get("mlflow_run_id", "")), tags, alias="champion")


def parity_questions(home: Home, most: int = 16) -> list[str]:
    """The first questions of every evaluation suite, in turn; a fixed list when there is no suite."""
    from llm_pipeline.serving.engine.parity import QUESTIONS

    if not home.artifacts.has("evaluation_suites"):
        return list(QUESTIONS)
    suites = [[row["question"] for row in home.artifacts.named("evaluation_suites").jsonl(f"{name}.jsonl")] for name in _suites(home)]
    found = [question for group in zip(*(suite[:most] for suite in suites if suite), strict=False) for question in group]
    return found[:most] or list(QUESTIONS)


def _suites(home: Home) -> list[str]:
    return sorted(path.stem for path in home.artifacts.named("evaluation_suites").path.glob("*.jsonl"))
