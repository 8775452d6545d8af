"""lm-evaluation-harness as the engine: local tasks, offline, on a checkpoint and on addresses, and refused where they would lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.endpoint import Endpoint
from llm_pipeline.evaluation.evaluate import evaluate_suite
from llm_pipeline.evaluation.generate import Generator
from llm_pipeline.evaluation.harness import _manager, run_task
from llm_pipeline.evaluation.scores import scores_of
from llm_pipeline.evaluation.suite_files import find_suite
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import find_file
from llm_pipeline_tests.evaluation.servers import FakeServer, serving
from llm_pipeline_tests.serving.engines import running_engine

TINY = DATA / "models" / "tiny_base"
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: {kind}
test_split: test
doc_to_text: "{{{{question}}}}"
{rest}"""
READING = """doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|end|>"], max_gen_toks: 8, do_sample: false}
filter_list: [{name: stripped, filter: [{function: remove_whitespace}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOICES = """doc_to_target: gold
doc_to_choice: choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two local tasks on the same questions: read the value out, and choose it."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "question": f"Context:\nThe fee of the Item{i} account is ${i}.\nQuestion: What is the fee of the Item{i} account?",
            "answer": f"${i}",
            "choices": ["9:00 to 17:00", f"${i}", f"${i + 7}"],
            "gold": 1,
        }
        for i in range(3, 9)
    ]
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    for name, kind, rest in (
        ("local_reading", "generate_until", READING),
        ("local_choices", "multiple_choice", CHOICES),
        ("local_again", "multiple_choice", CHOICES),
    ):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, rows=folder / "rows.json", kind=kind, rest=rest))
    (folder / "lost.yaml").write_text(TASK.format(name="lost", rows=folder / "absent.json", kind="multiple_choice", rest=CHOICES))
    mean = "{metric: acc, aggregation: mean, weight_by_size: true}"
    (folder / "both.yaml").write_text(f"group: local_both\ntask: [local_choices, local_again]\naggregate_metric_list: [{mean}]\n")
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real engine worker on the embedded model: it chats, and has no /v1/completions."""
    with running_engine(TINY, tmp_path_factory.mktemp("logs") / "log") as address:
        yield address


def test_a_checkpoint_reads_and_chooses(tasks: Path) -> None:
    rows, [report] = run_task("local_reading", TINY, include_path=tasks, chat=True)
    assert report["suite"] == "lm_eval:local_reading"
    [figure] = report["figures"]
    assert figure["metric"] == "exact_match,stripped"
    assert figure["value"] == figure["mean"] >= 5 / 6
    assert scores_of(rows) == {"lm_eval:local_reading/exact_match,stripped": {row["id"]: row["score"] for row in rows}}
    assert {row["answer"] for row in rows} >= {"$3", "$4"}


def test_a_group_is_its_tasks_and_their_mean(tasks: Path) -> None:
    rows, reports = run_task("local_both", TINY, include_path=tasks, limit=4, chat=True)
    assert [report["suite"] for report in reports] == ["lm_eval:local_choices", "lm_eval:local_again", "lm_eval:local_both"]
    mine = [row["score"] for row in rows if row["suite"] == "lm_eval:local_choices"]
    assert len(mine) == 4
    assert reports[0]["figures"][0]["value"] == reports[2]["figures"][0]["value"] == sum(mine) / 4 >= 0.75
    assert not reports[0]["figures"][0]["lower_is_better"]


def test_data_out_of_reach_is_said(tasks: Path) -> None:
    with pytest.raises(InputError, match=r"lm_eval:lost: .*absent\.json"):
        run_task("lost", TINY, include_path=tasks)


@pytest.mark.slow
def test_an_address_that_chats_generates_and_never_scores(tasks: Path, engine: str) -> None:
    rows, _ = run_task("local_reading", Endpoint(engine), include_path=tasks)
    assert sum(row["score"] for row in rows) >= 5
    with pytest.raises(InputError, match=r"local_choices needs log-likelihoods .* does not score texts"):
        run_task("local_choices", Endpoint(engine), include_path=tasks)


@pytest.mark.slow
def test_a_suite_gives_the_same_rows_from_a_folder_and_from_its_engine(engine: str) -> None:
    suite, prompt = find_suite("reading").sample(12), find_file("answer").prompt
    served, report = evaluate_suite(Endpoint(engine, concurrency=4), suite, prompt)
    local, _ = evaluate_suite(Generator(TINY, threads=1), suite, prompt)
    assert served == local
    assert report["skipped"] == {}


def test_a_server_that_ignores_echo_is_refused(tasks: Path) -> None:
    with serving(FakeServer(echo="ignored")) as server, pytest.raises(InputError, match="ignores `echo`"):
        run_task("local_choices", Endpoint(server.url), include_path=tasks)


def test_a_server_that_scores_texts_chooses(tasks: Path) -> None:
    """The fake charges each character by its code, so the shortest choice, which is the right one here, is the likeliest."""
    with serving(FakeServer(echo="yes")) as server:
        rows, [report] = run_task("local_choices", Endpoint(server.url), include_path=tasks)
        assert server.requests[-1]["echo"] is True
    assert [row["score"] for row in rows] == [1.0] * 6
    assert report["figures"][0]["value"] == 1.0


def test_an_unknown_task_names_the_near_one() -> None:
    class Tasks:
        """As TaskManager, which takes ten seconds to read its thousands of files."""

        def __init__(self, include_path: str | None = None, include_defaults: bool = True) -> None:
            self.all_tasks = ["gsm8k", "mmlu"] if include_defaults else []

    assert _manager(Tasks, "gsm8k", None).all_tasks == ["gsm8k", "mmlu"]
    with pytest.raises(ConfigError, match="did you mean 'gsm8k'"):
        _manager(Tasks, "gsm8kk", None)
