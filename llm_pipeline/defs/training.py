"""Training as assets: tokenizer and base model, the tuned, aligned and distilled checkpoints, and the candidate that evaluation judges."""

import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.errors import TrainingError
from llm_pipeline.store import Artifact, Home
from llm_pipeline.training.curves import loss_curve
from llm_pipeline.training.interrupt import signal_on_parent_death
from llm_pipeline.training.launch import Message
from llm_pipeline.training.recipe import Recipe, load_recipe

OWNERS = ["team:ml"]
TRAINED: dict[str, Any] = {
    "group_name": "training",
    "kinds": {"pytorch", "deepspeed", "mlflow"},
    "owners": OWNERS,
    "tags": {"cost": "high"},
    "pool": "training",
    "retry_policy": dg.RetryPolicy(max_retries=2, delay=1),
}


class RecipeConfig(dg.Config):
    """Which recipe trains: a name in llm_pipeline/recipes or a path, and `dotted.key=value` overrides."""

    recipe: str = "tiny_cpu"
    overrides: list[str] = Field(default_factory=list)

    def load(self) -> Recipe:
        return load_recipe(self.recipe, self.overrides)


@dg.asset(group_name="training", kinds={"huggingface"}, owners=OWNERS, tags={"cost": "low"}, deps=["corpus_snapshot"])
def tokenizer(config: RecipeConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """The versioned tokenizer: the base model's own, or a byte-level BPE trained with the snapshot when the base is `scratch`."""
    from llm_pipeline.training.bases import make_tokenizer

    return _result(make_tokenizer(home.open(), config.load()))


@dg.asset(group_name="training", kinds={"pytorch", "huggingface"}, owners=OWNERS, tags={"cost": "low"}, deps=["tokenizer"], pool="training")
def base_model(config: RecipeConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """The model that fine-tuning starts from: shipped, a local folder, a hub id, or pretrained on the snapshot."""
    from llm_pipeline.training.bases import make_base

    return _result(make_base(home.open(), config.load()))


class PreferenceRecipe(RecipeConfig):
    """As for `sft_checkpoint`; by default DPO, and `kto` learns from single answers."""

    recipe: str = "dpo"


class DistillationRecipe(RecipeConfig):
    """As for `sft_checkpoint`; by default a student with half the layers of the candidate."""

    recipe: str = "distill"


class Checkpoint(Enum):
    """What a candidate can be made of."""

    SFT = "sft_checkpoint"
    PREFERENCE = "preference_checkpoint"
    DISTILLED = "distilled_checkpoint"


class CandidateConfig(dg.Config):
    """Which checkpoint becomes the candidate."""

    checkpoint: Checkpoint = Checkpoint.SFT


@dg.asset(**TRAINED, deps=["sft_dataset", "base_model", "tokenizer"])
def sft_checkpoint(context: dg.AssetExecutionContext, config: RecipeConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """LoRA adapters fine-tuned on `sft_dataset` by TRL under DeepSpeed ZeRO, in a process of its own that streams its progress."""
    artifacts = home.open().artifacts
    return _train(context, home, config.load(), artifacts.named("sft_dataset"), artifacts.named("base_model"))


@dg.asset(**TRAINED, deps=["preference_dataset", "candidate_model"])
def preference_checkpoint(context: dg.AssetExecutionContext, config: PreferenceRecipe, home: HomeResource) -> dg.MaterializeResult[Any]:
    """The candidate aligned with preferences (DPO or KTO) on `preference_dataset`: fewer stale, wrong and invented answers."""
    artifacts = home.open().artifacts
    return _train(context, home, config.load(), artifacts.named("preference_dataset"), artifacts.named("candidate_model"))


@dg.asset(**TRAINED, deps=["sft_dataset", "candidate_model"])
def distilled_checkpoint(context: dg.AssetExecutionContext, config: DistillationRecipe, home: HomeResource) -> dg.MaterializeResult[Any]:
    """A smaller student of the candidate: it learns the candidate's distribution over every token of the answers of `sft_dataset`."""
    artifacts, recipe = home.open().artifacts, config.load()
    candidate = artifacts.named("candidate_model")
    taught = replace(recipe, distillation=replace(recipe.distillation, teacher=str(candidate.file("model"))))
    return _train(context, home, taught, artifacts.named("sft_dataset"), candidate)


@dg.asset(group_name="training", kinds={"pytorch", "mlflow"}, owners=OWNERS, tags={"cost": "low"}, deps=["sft_checkpoint", "base_model"])
def candidate_model(config: CandidateConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """The checkpoint as a standalone model (an adapter is merged into its base), registered in MLflow under the alias `challenger`."""
    from llm_pipeline.training.merge import make_candidate, register_candidate

    place = home.open()
    candidate = make_candidate(place, place.artifacts.named(config.checkpoint.value))
    version = register_candidate(place, candidate)
    return _result(candidate, {"registered_version": int(version), "data_versions": dg.MetadataValue.json(dict(candidate.inputs))})


def _train(
    context: dg.AssetExecutionContext, home: HomeResource, recipe: Recipe, dataset: Artifact, base: Artifact
) -> dg.MaterializeResult[Any]:
    """The checkpoint of this asset's name, with its curve and where it comes from."""
    try:
        checkpoint = _under_pipes(context, home.open(), recipe, dataset, base)
    except TrainingError as error:
        raise dg.Failure(str(error), allow_retries=error.retryable) from error
    trained = checkpoint.json("training.json")
    inputs = checkpoint.inputs
    extra = {
        "loss_curve": figure(loss_curve(trained["curve"])),
        "tokens_per_second": float(trained.get("tokens_per_second") or 0.0),
        "seconds": float(trained.get("seconds") or 0.0),
        "data_versions": dg.MetadataValue.json({key: inputs[key] for key in (dataset.kind, base.kind, "code")}),
        "recipe": dg.MetadataValue.json(inputs["recipe"]),
        "mlflow_run_id": checkpoint.info.get("mlflow_run_id", ""),
    }
    return _result(checkpoint, extra)


def _under_pipes(context: dg.AssetExecutionContext, place: Home, recipe: Recipe, dataset: Artifact, base: Artifact) -> Artifact:
    """Train under Pipes: what the worker reports becomes observations of this asset while it runs."""
    from llm_pipeline.training.sft import make_checkpoint

    if multiprocessing.parent_process() is not None:
        signal_on_parent_death(signal.SIGINT)  # a step process killed with its run worker takes the trainer along
    with dg.open_pipes_session(
        context=context, context_injector=dg.PipesTempFileContextInjector(), message_reader=dg.PipesTempFileMessageReader()
    ) as session:

        def messages() -> Sequence[Message]:
            return [message for message in session.get_custom_messages() if isinstance(message, Mapping)]

        def show(message: Message) -> None:
            context.log.info(
                " ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in message.items())
            )
            if message.get("event") == "progress":
                metadata = {key: value for key, value in message.items() if isinstance(value, int | float)}
                context.log_event(dg.AssetObservation(asset_key=context.asset_key, metadata=metadata))

        return make_checkpoint(
            place,
            recipe,
            dataset,
            base,
            kind=context.asset_key.to_user_string(),
            on_message=show,
            env=session.get_bootstrap_env_vars(),
            poll=messages,
        )


def _result(artifact: Artifact, extra: Mapping[str, Any] | None = None) -> dg.MaterializeResult[Any]:
    shown = {key: value for key, value in artifact.info.items() if isinstance(value, int | float | str)}
    metadata = {**shown, "reused": artifact.reused, "path": dg.MetadataValue.path(artifact.path), **(extra or {})}
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(artifact.id))


defs = dg.Definitions(assets=[tokenizer, base_model, sft_checkpoint, preference_checkpoint, distilled_checkpoint, candidate_model])
