"""The stand-in judge is always the same, speaks the protocol, and does not agree with people well enough to gate."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_pipeline.evaluation.judge import Judge
from llm_pipeline.evaluation.judge_baseline import MODEL, overlap, serve
from llm_pipeline.evaluation.judge_calibration import JudgePolicy, calibrate, may_gate
from llm_pipeline.evaluation.judge_cases import Case
from llm_pipeline.evaluation.judge_client import Endpoint, ask_all
from llm_pipeline.evaluation.judge_labels import Labelled
from llm_pipeline.evaluation.judge_rubric import load_rubric
from llm_pipeline_tests.conftest import SHARED_DATA


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = serve()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_grades_by_words_shared_with_the_reference(url: str) -> None:
    answers = ["The fee is $5 a month.", "The fee is $9 a year or so, I think.", "No idea."]
    cases = [Case("", str(i), "What is the fee?", text, "The fee is $5 a month.") for i, text in enumerate(answers)]
    judged, usage = Judge(load_rubric("correctness"), Endpoint(url, MODEL)).score(cases)
    scores = [j.verdict for j in judged]
    assert scores[0] == 5
    assert scores == sorted(scores, key=int, reverse=True)  # type: ignore[arg-type]
    assert "no language model" in judged[0].reason
    assert usage["tokens_in"] > 0
    assert Judge(load_rubric("correctness"), Endpoint(url, MODEL)).score(cases)[0] == judged


def test_the_order_of_a_pair_does_not_matter_to_it(url: str) -> None:
    one, other = (Case("", "q", "Explain tides and the moon", text, None) for text in ("The moon pulls: tides.", "no no no no"))
    for name in ("preference", "preference_line"):
        judged, _ = Judge(load_rubric(name), Endpoint(url, MODEL)).prefer([(one, other)])
        assert judged[0].verdict == "A"
        assert judged[0].consistent


def test_another_prompt_is_refused(url: str) -> None:
    replies, _ = ask_all(Endpoint(url, MODEL), [[{"role": "user", "content": "hello"}]])
    assert "HTTP 400" in replies[0].error


def test_overlap_counts_words_not_letters() -> None:
    assert overlap("q", "", "ref") == 0
    assert overlap("q", "a fee of 5", "fee of 5") == 1
    assert overlap("the moon", "moon moon moon") < overlap("the moon", "moon rises")


def test_on_real_human_preferences_it_may_not_gate_and_length_beats_it(url: str) -> None:
    path = SHARED_DATA / "autoj_pairwise" / "testdata.jsonl"
    if not path.exists():
        pytest.skip(f"the public data set autoj_pairwise is not in {path.parent}")
    labels = human_preferences(path)[::7]
    found = calibrate(Judge(load_rubric("preference"), Endpoint(url, MODEL)), labels)
    assert found.n == len(labels)
    assert found.baselines["longer"]["kappa"] > 0.15
    allowed, reason = may_gate(found, JudgePolicy())
    assert not allowed
    assert "longer" in reason


def human_preferences(path: Path) -> list[Labelled]:
    """Rows {prompt, response 1, response 2, label}: 0 and 1 name the better response, 2 a tie."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        Labelled(*(Case("", str(i), row["prompt"], row[f"response {k}"], None, {}, row) for k in (1, 2)), ("A", "B", "tie")[row["label"]])
        for i, row in enumerate(rows)
    ]
