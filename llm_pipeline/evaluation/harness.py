"""Standard benchmarks by lm-evaluation-harness: any of its tasks, or of a folder of one's own, on a folder or an address.

Its per-sample results become the same rows as those of our suites, so that the gate compares them like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import ConfigError, InputError, near
from llm_pipeline.evaluation.compare import score_interval
from llm_pipeline.evaluation.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "lm_eval:"
Rows = list[dict[str, Any]]


def run_task(
    task: str,
    model: Path | Endpoint,
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    chat: bool = False,
) -> tuple[Rows, list[dict[str, Any]]]:
    """Rows {suite, id, metric, score, ...} of a task or group, and one part of the report for each task and group in it.

    An address answers generation tasks by chat. Tasks of log-likelihoods need one whose /v1/completions echoes with log-probabilities
    and are refused without, since such a server would score chance. `chat` puts a folder's chat template around the questions.
    """
    with _quiet(), _explained(task):
        from lm_eval.evaluator import simple_evaluate  # type: ignore[import-untyped]
        from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

        manager = _manager(TaskManager, task, include_path)
        kinds = {loaded.get_config("output_type") for loaded in manager.load([task])["tasks"].values()}
        lm = _local(model) if isinstance(model, Path) else _remote(model, kinds, task)
        found = simple_evaluate(
            lm,
            tasks=[task],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat if isinstance(model, Path) else kinds == {"generate_until"},
        )
    if found is None:
        raise InputError(f"{PREFIX}{task}: lm-evaluation-harness gave no result")
    rows = [row for name, samples in found["samples"].items() for sample in samples for row in _rows(f"{PREFIX}{name}", sample)]
    return rows, [_report(name, found, rows) for name in (*found["samples"], *found.get("groups", ()))]


def _manager(make: Any, task: str, include_path: Path | None) -> Any:
    if include_path is not None and not include_path.is_dir():
        raise InputError(f"--include-path {include_path}: expected a folder of task YAML files")
    own = make(include_path=str(include_path), include_defaults=False) if include_path else None
    if own and task in own.all_tasks:
        return own
    manager = make(include_path=str(include_path) if include_path else None)
    if task not in manager.all_tasks:
        raise ConfigError(f"{PREFIX}{task}: lm-evaluation-harness has no such task{near(task, manager.all_tasks)[:300]}")
    return manager


def _local(model: Path) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

    if not (model / "config.json").is_file():
        raise InputError(f"{model}: not a model folder (it has no config.json)")
    return HFLM(pretrained=str(model), dtype="float32", device="cuda" if torch.cuda.is_available() else "cpu", batch_size=16)


def _remote(endpoint: Endpoint, kinds: set[str], task: str) -> Any:
    from llm_pipeline.evaluation.harness_endpoint import EndpointLM

    if kinds - {"generate_until"} and (why := endpoint.no_likelihoods):
        raise InputError(f"{PREFIX}{task} needs log-likelihoods of given texts: {why}; evaluate the model's folder instead")
    if "generate_until" in kinds and len(kinds) > 1:
        raise InputError(f"{PREFIX}{task} generates and scores ({', '.join(sorted(kinds))}): name its tasks one by one for an address")
    return EndpointLM(endpoint)


def _rows(suite: str, sample: Mapping[str, Any]) -> Rows:
    arguments, responses = sample["arguments"], sample["filtered_resps"]
    question = next(iter(arguments.values()))["arg_0"] if isinstance(arguments, Mapping) else arguments[0][0]
    answer = responses[0] if len(responses) == 1 else responses
    base: dict[str, Any] = {"suite": suite, "id": str(sample["doc_id"]), "slices": {}}
    base |= {"question": str(question), "answer": str(answer), "reference": str(sample["target"])}
    filtered = sample.get("filter", "none")
    return [
        base | {"metric": name if filtered == "none" else f"{name},{filtered}", "score": float(sample[name])}
        for name in sample["metrics"]
        if isinstance(sample[name], bool | int | float)
    ]


def _report(task: str, found: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    suite, better = f"{PREFIX}{task}", found["higher_is_better"].get(task, {})
    figures = []
    for name, value in (found["results"].get(task) or found["groups"][task]).items():
        metric, separator, filtered = name.partition(",")
        if not separator or metric.endswith("_stderr"):
            continue
        label = metric if filtered == "none" else name
        scores = [row["score"] for row in rows if (row["suite"], row["metric"]) == (suite, label)]
        spread = score_interval(scores) if scores else None
        figures.append(
            {
                "metric": label,
                "value": value,
                "n": spread.n if spread else None,
                "mean": spread.mean if spread else None,
                "low": spread.low if spread else None,
                "high": spread.high if spread else None,
                "lower_is_better": better.get(metric) is False,
            }
        )
    head = {"suite": suite, "id": found.get("task_hashes", {}).get(task) or str(found["versions"].get(task)), "kind": "benchmark"}
    n = found["n-samples"].get(task, {}).get("effective")  # a group has none of its own
    return head | {"description": "lm-evaluation-harness", "n": n, "figures": figures, "thresholds": [], "skipped": {}}


@contextmanager
def _explained(task: str) -> Iterator[None]:
    """The harness has no errors of its own: data out of reach, a broken task file and unsafe code all come as these two."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{PREFIX}{task}: {type(error).__name__}: {str(error)[:300]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Its warnings about defaults say nothing about the model; errors still show."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
