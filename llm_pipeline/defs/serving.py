"""Serving as assets: the release that would answer, the rollout that moved traffic to it, and the proof that it is the trained model."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from llm_pipeline.defs.resources import HomeResource, endpoint_database
from llm_pipeline.errors import ConfigError, ContractError, EndpointError
from llm_pipeline.store import Artifact

OWNERS = ["team:platform"]
TOLERANCE = 0.05
"""Largest difference of a log-probability between the trained and the served model."""


class ReleaseConfig(dg.Config):
    """How a release is served."""

    retrieval: bool = True
    """Whether a request that does not say so is answered over retrieved passages (when there is an index)."""
    passages: int = 1
    threads: int = 1
    dtype: str = "float32"
    kv_megabytes: int = 256
    replicas: int = 1
    """Engine processes that share the release's requests."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Further settings: another engine ({name: vllm, executable: ...}), {quantization: int8}, {cache: {exact: true}}, {routing: ...}."""


class RolloutSettings(dg.Config):
    """How traffic moves (see `llm_pipeline.serving.traffic.canary.RolloutConfig`)."""

    strategy: str = "auto"
    """auto, all_at_once, blue_green, rolling, canary, shadow or ab."""
    share: float = 0.5
    """ab: the new release's share of the users."""
    shadow_requests: int = 0
    """canary: mirrored requests to judge before anybody is answered by the new release."""
    gateways: int = 1
    """Gateway processes behind the endpoint's port, when this starts it."""
    min_requests: int = 200
    """Requests, of both releases together, to judge in each step of a canary."""
    max_seconds: float = 600.0
    replay: int = 400
    """Logged questions to ask again, over and over, while a canary runs; 0 leaves it to live traffic alone."""


@dg.asset(
    group_name="serving",
    kinds={"json"},
    owners=OWNERS,
    tags={"cost": "low"},
    deps=["candidate_model", "vector_index", "promotion_decision", "safety_report"],
)
def release(config: ReleaseConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """An immutable revision: model, prompt, index generation, policy and engine by hash. Needs the consent of gate and safety report."""
    from llm_pipeline.serving.traffic.release import make_release

    ours = {"name": "transformers", "threads": config.threads, "dtype": config.dtype, "kv_megabytes": config.kv_megabytes}
    engine = (ours if config.engine.get("name", "transformers") == "transformers" else {}) | config.engine
    if config.replicas > 1:
        engine["replicas"] = config.replicas
    try:
        made = make_release(home.open(), engine, retrieval=config.retrieval, passages=config.passages)
    except (ConfigError, ContractError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    return dg.MaterializeResult(metadata=_metadata(made, dict(made.inputs)), data_version=dg.DataVersion(made.id))


@dg.asset(group_name="serving", kinds={"openai"}, owners=OWNERS, tags={"cost": "low"}, deps=["release"])
def deployed_endpoint(context: dg.AssetExecutionContext, config: RolloutSettings, home: HomeResource) -> dg.MaterializeResult[Any]:
    """The rollout that moved traffic: all at once when nothing answered before, else a canary judged on live interactions.

    Starts the endpoint when none runs; it outlives this run (`llm-pipeline endpoint down` ends it).
    """
    from llm_pipeline.config import build
    from llm_pipeline.serving.traffic.canary import RolloutConfig
    from llm_pipeline.serving.traffic.release import roll_out

    place = home.open()
    given = {name: getattr(config, name) for name in ("strategy", "share", "shadow_requests", "max_seconds")}
    settings = build(RolloutConfig, given | {"step_requests": config.min_requests}, "rollout")
    said: list[str] = []

    def report(rollout: Any) -> None:
        words = f"{rollout.status} step {rollout.step + 1}: {rollout.evidence.get('reason', 'waiting for the engine')}"
        if words not in said:
            said.append(words)
            context.log.info(words)

    where: dict[str, Any] = {"database": endpoint_database(), "gateways": config.gateways}
    made = roll_out(place, place.artifacts.named("release"), settings, replay=config.replay, each=report, **where)
    record = made.json("rollout.json")
    if record["status"] != {"shadow": "held", "ab": "running"}.get(config.strategy, "promoted") and record["status"] != "promoted":
        raise dg.Failure(f"rollout {record['id']} {record['status']}: {record['evidence'].get('reason')}", allow_retries=False)
    shown = {"status": record["status"], "url": record["url"], "rollout": record["id"], "evidence": record["evidence"]}
    return dg.MaterializeResult(metadata=_metadata(made, shown), data_version=dg.DataVersion(made.id))


@dg.asset(group_name="serving", kinds={"openai"}, owners=OWNERS, tags={"cost": "low"})
def rollback(home: HomeResource) -> dg.MaterializeResult[Any]:
    """All traffic back to the release before the current one, whose engine is still warm. Nothing materialises it but a person."""
    from llm_pipeline.serving.traffic.release import roll_back

    try:
        made = roll_back(home.open())
    except EndpointError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    record = made.json("rollout.json")
    if record["status"] != "promoted":
        raise dg.Failure(f"rollback {record['id']} {record['status']}: {record['evidence'].get('reason')}", allow_retries=False)
    shown = {"release": record["release"], "seconds": record["evidence"]["seconds"], "rollout": record["id"]}
    return dg.MaterializeResult(metadata=_metadata(made, shown), data_version=dg.DataVersion(made.id))


@dg.asset(group_name="serving", kinds={"numpy"}, owners=OWNERS, tags={"cost": "low"})
def guard_detector(home: HomeResource) -> dg.MaterializeResult[Any]:
    """The offline detector of attacks, trained on the sentences of data/guard; a policy names its folder (`detector`)."""
    from llm_pipeline.serving.guardrails.train import build_detector

    made = build_detector(home.open())
    return dg.MaterializeResult(metadata=_metadata(made, dict(made.info)), data_version=dg.DataVersion(made.id))


@dg.asset_check(
    asset=deployed_endpoint, blocking=True, description="Trained and served model agree: equal greedy answers, near equal log-probabilities"
)
def served_parity(home: HomeResource) -> dg.AssetCheckResult:
    from llm_pipeline.serving.engine.parity import compare
    from llm_pipeline.serving.traffic.release import parity_questions, resolve
    from llm_pipeline.serving.traffic.state import State

    place = home.open()
    made, spec = resolve(place, place.artifacts.named("release"))
    engine = next((engine for engine in State(place.endpoint).engines_of(made.id) if engine.state == "ready"), None)
    if engine is None:
        return dg.AssetCheckResult(passed=False, description=f"release {made.id} has no engine ready")
    found = compare(Path(spec.model_path), engine.url, parity_questions(place))
    metadata = {
        "prompts": found.prompts,
        "equal_answers": found.equal,
        "tokens": found.tokens,
        "largest_logprob_difference": found.largest_difference,
        "tolerance": TOLERANCE,
    }
    return dg.AssetCheckResult(passed=found.holds(TOLERANCE), metadata=metadata)


def _metadata(made: Artifact, content: dict[str, Any]) -> dict[str, Any]:
    shown = {
        key: dg.MetadataValue.json(value) if isinstance(value, dict | list) else value
        for key, value in content.items()
        if value is not None
    }
    return {**shown, "dagster/uri": str(made.path), "artifact": made.id, "reused": made.reused}


defs = dg.Definitions(assets=[release, deployed_endpoint, rollback, guard_detector], asset_checks=[served_parity])
