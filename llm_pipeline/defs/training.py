"""Training as assets: tokenizer and base model, the fine-tuned checkpoint, and the candidate that evaluation judges."""

import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.errors import TrainingError
from llm_pipeline.store import Artifact, Home
from llm_pipeline.training.interrupt import signal_on_parent_death
from llm_pipeline.training.launch import Message
from llm_pipeline.training.recipe import Recipe, load_recipe

OWNERS = ["team:ml"]


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


@dg.asset(
    group_name="training",
    kinds={"pytorch", "deepspeed", "mlflow"},
    owners=OWNERS,
    tags={"cost": "high"},
    deps=["sft_dataset", "base_model", "tokenizer"],
    pool="training",
    retry_policy=dg.RetryPolicy(max_retries=2, delay=1),
)
def sft_checkpoint(context: dg.AssetExecutionContext, config: RecipeConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """LoRA adapters fine-tuned on `sft_dataset` by TRL under DeepSpeed ZeRO, in a process of its own that streams its progress."""
    place = home.open()
    try:
        checkpoint = _fine_tune(context, place, config.load())
    except TrainingError as error:
        raise dg.Failure(str(error), allow_retries=error.retryable) from error
    trained = checkpoint.json("training.json")
    extra = {
        "loss_curve": _loss_curve(trained["curve"]),
        "tokens_per_second": float(trained.get("tokens_per_second") or 0.0),
        "seconds": float(trained.get("seconds") or 0.0),
        "data_versions": dg.MetadataValue.json({key: checkpoint.inputs[key] for key in ("sft_dataset", "base_model", "code")}),
        "recipe": dg.MetadataValue.json(checkpoint.inputs["recipe"]),
        "mlflow_run_id": checkpoint.info.get("mlflow_run_id", ""),
    }
    return _result(checkpoint, extra)


@dg.asset(group_name="training", kinds={"pytorch", "mlflow"}, owners=OWNERS, tags={"cost": "low"}, deps=["sft_checkpoint", "base_model"])
def candidate_model(home: HomeResource) -> dg.MaterializeResult[Any]:
    """The adapter merged into its base: a standalone model, registered in MLflow under the alias `challenger`."""
    from llm_pipeline.training.merge import make_candidate, register_candidate

    place = home.open()
    candidate = make_candidate(place, place.artifacts.named("sft_checkpoint"))
    version = register_candidate(place, candidate)
    return _result(candidate, {"registered_version": int(version), "data_versions": dg.MetadataValue.json(dict(candidate.inputs))})


def _fine_tune(context: dg.AssetExecutionContext, place: Home, recipe: Recipe) -> Artifact:
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
            place.artifacts.named("sft_dataset"),
            place.artifacts.named("base_model"),
            on_message=show,
            env=session.get_bootstrap_env_vars(),
            poll=messages,
        )


def _loss_curve(points: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    from matplotlib.figure import Figure

    plot = Figure(figsize=(6, 3))
    loss, rate = plot.add_subplot(), None
    loss.plot([point["step"] for point in points], [point["loss"] for point in points], color="#1f5fbf", label="loss")
    loss.set(xlabel="step", ylabel="loss (nats per token)")
    rate = loss.twinx()
    rate.plot([point["step"] for point in points], [point["learning_rate"] for point in points], color="#b0b0b0", linewidth=1)
    rate.set_ylabel("learning rate")
    return figure(plot)


def _result(artifact: Artifact, extra: Mapping[str, Any] | None = None) -> dg.MaterializeResult[Any]:
    shown = {key: value for key, value in artifact.info.items() if isinstance(value, int | float | str)}
    metadata = {**shown, "reused": artifact.reused, "path": dg.MetadataValue.path(artifact.path), **(extra or {})}
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(artifact.id))


defs = dg.Definitions(assets=[tokenizer, base_model, sft_checkpoint, candidate_model])
