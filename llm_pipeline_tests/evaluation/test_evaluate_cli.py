"""The verbs `evaluate` and `suites` as a person calls them: on a folder, on an address, and with what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.errors import ConfigError, EndpointError, InputError
from llm_pipeline.evaluation.endpoint import Endpoint
from llm_pipeline.evaluation.report import summarise_rows
from llm_pipeline.evaluation.scores import lower_is_better, read_rows
from llm_pipeline.evaluation.suite_files import suite_names
from llm_pipeline.paths import DATA
from llm_pipeline.store import read_jsonl, write_jsonl
from llm_pipeline_tests.evaluation.servers import FakeServer, serving

TINY = str(DATA / "models" / "tiny_base")


def call(*arguments: str, fails: type[Exception] | None = None) -> Any:
    result = CliRunner().invoke(app, arguments, catch_exceptions=fails is not None)
    if fails:
        assert isinstance(result.exception, fails), result.output
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def evaluate(model: str, out: Path, *suites: str, **options: str) -> dict[str, Any]:
    named = [part for suite in suites for part in ("--suite", suite)]
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return dict(json.loads(call("evaluate", "--model", model, "--out", str(out), "--json", *named, *given).stdout))


def test_a_folder_through_two_suites(tmp_path: Path) -> None:
    report = evaluate(TINY, tmp_path, "reading", "choices", limit="8")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert {(row["suite"], row["metric"]) for row in rows} == {
        ("reading", "exact_match"),
        ("reading", "rouge_l"),
        ("choices", "choice"),
        ("choices", "brier"),
    }
    assert len(rows) == 32
    first = next(row for row in rows if row["suite"] == "reading")
    assert set(first) == {"suite", "id", "metric", "score", "question", "answer", "reference", "slices"}
    assert set(first["slices"]) == {"value", "passages"}
    assert json.loads((tmp_path / "report.json").read_text()) == {k: v for k, v in report.items() if k != "report"}
    means = {(f["suite"], f["metric"]): f["mean"] for f in summarise_rows(rows)["figures"]}
    for suite in report["suites"]:
        assert suite["id"]
        for figure in suite["figures"]:
            assert figure["mean"] == means.get((suite["suite"], figure["metric"]))
    page = (tmp_path / "report.html").read_text("utf-8")
    wrong = next(row for row in rows if row["metric"] == "choice" and not row["score"])
    assert wrong["question"] in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_public_set_as_a_plain_file(xquad: Path, tmp_path: Path) -> None:
    """Real questions on real passages in two languages; a model that can only copy short values gets few of them."""
    rows = []
    for language, n in (("en", 6), ("de", 4)):
        passages = {p["id"]: p["text"] for p in read_jsonl(xquad / f"{language}_passages.jsonl")}
        for q in read_jsonl(xquad / f"{language}_questions.jsonl")[:n]:
            rows.append(q | {"id": f"{language}-{q['id']}", "context": [passages[q["passage_id"]]], "language": language})
    write_jsonl(tmp_path / "public.jsonl", rows)
    evaluate(TINY, tmp_path / "out", str(tmp_path / "public.jsonl"))
    found = summarise_rows(read_jsonl(tmp_path / "out" / "rows.jsonl"))
    assert {(f["metric"], f["n"]) for f in found["figures"]} == {("exact_match", 10), ("rouge_l", 10)}
    assert {s["value"]: s["n"] for s in found["slices"] if (s["metric"], s["slice"]) == ("rouge_l", "language")} == {"en": 6, "de": 4}


def test_the_same_model_and_suites_give_the_same_rows_and_the_gate_reads_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluate(TINY, tmp_path / name, "reading", limit="6")
    assert (tmp_path / "a" / "rows.jsonl").read_bytes() == (tmp_path / "b" / "rows.jsonl").read_bytes()
    assert len(read_rows(tmp_path / "a" / "rows.jsonl")) == 12
    result = CliRunner().invoke(app, ["gate", str(tmp_path / "a" / "rows.jsonl"), str(tmp_path / "b" / "rows.jsonl"), "--json"])
    assert json.loads(result.stdout)["verdict"] != "promote"


def test_lines_for_people_show_limits_that_are_broken(tmp_path: Path) -> None:
    (tmp_path / "hard.yaml").write_text("description: d\nmetrics: [exact_match]\nthresholds: {exact_match: {at_least: 0.99}}\n")
    write_jsonl(tmp_path / "hard.jsonl", [{"id": "1", "question": "Who wrote Faust?", "answer": "Goethe"}])
    result = call("evaluate", "--model", TINY, "--suite", str(tmp_path / "hard.yaml"), "--out", str(tmp_path / "out"))
    assert "hard exact_match limit  0.000 received, at least 0.99 expected" in result.stdout
    assert "1 of 1 answers" in result.stderr


def test_an_address_that_only_chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server repeats the last word of the question, so the first row is right; nothing is made up about likelihoods."""
    write_jsonl(
        tmp_path / "q.jsonl", [{"id": "1", "question": "Say blue", "answer": "blue"}, {"id": "2", "question": "Say red", "answer": "green"}]
    )
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(FakeServer(key="secret")) as server:
        report = evaluate(server.url, tmp_path / "out", str(tmp_path / "q.jsonl"), "choices", key_env="MY_KEY", limit="3")
        assert {request["model"] for request in server.requests} == {"fake-1"}
    scores = {(row["id"], row["metric"]): row["score"] for row in read_jsonl(tmp_path / "out" / "rows.jsonl")}
    assert scores == {("1", "exact_match"): 1, ("2", "exact_match"): 0, ("1", "rouge_l"): 1, ("2", "rouge_l"): 0}
    skipped = report["suites"][1]["skipped"]
    assert set(skipped) == {"choice", "brier", "calibration_error"}
    assert "does not score texts (" in skipped["choice"]
    assert "skipped" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_an_address_that_ignores_echo_is_found_out(tmp_path: Path) -> None:
    with serving(FakeServer(echo="ignored")) as server:
        assert "ignores `echo`" in str(Endpoint(server.url).cannot("choices"))
        report = evaluate(f"{server.url}/v1", tmp_path, "choices", limit="2")
    assert "ignores `echo`" in report["suites"][0]["skipped"]["choice"]
    assert (tmp_path / "rows.jsonl").read_text() == ""


def test_an_address_that_scores_texts(tmp_path: Path) -> None:
    """Each character of the fake costs a hundredth of its code, so the likelihood of a choice is known."""
    with serving(FakeServer(echo="yes")) as server:
        endpoint = Endpoint(server.url + "/v1/chat/completions")
        assert endpoint.cannot("reference") is None
        [found] = endpoint.choices([[{"role": "user", "content": "Which?"}]], [["ab", "z"]])
        assert server.requests[-1]["prompt"].startswith("user: Which?\nassistant: ")
    assert [one.nll for one in found] == pytest.approx([sum(map(ord, " ab")) / 100, sum(map(ord, " z")) / 100])
    assert [one.tokens for one in found] == [3, 2]


def test_what_a_plain_text_needs_is_skipped_at_an_address(tmp_path: Path) -> None:
    with serving(FakeServer()) as server:
        report = evaluate(server.url, tmp_path, "memorisation", limit="2")
    assert "local models only" in report["suites"][0]["skipped"]["verbatim"]


def test_a_busy_server_is_asked_again_and_a_wrong_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        return None

    monkeypatch.setattr("llm_pipeline.evaluation.endpoint.asyncio.sleep", at_once)
    question = [{"role": "user", "content": "Say blue"}]
    with serving(FakeServer(failures=2)) as server:
        [answer] = Endpoint(server.url, "m", concurrency=1).answer([question])
        assert (answer.text, answer.finished, answer.tokens, answer.prompt_tokens) == ("blue", True, 1, 2)
        assert answer.seconds is not None
    with serving(FakeServer(failures=99)) as server, pytest.raises(EndpointError, match=r"status 503: .*busy"):
        Endpoint(server.url, "m").answer([question])
    with serving(FakeServer(key="right")) as server, pytest.raises(EndpointError, match=r"status 401: .*wrong key"):
        Endpoint(server.url, "m", "wrong").answer([question])
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9"):
        Endpoint("http://127.0.0.1:9", "m").answer([question])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--model", TINY, "--suite", "readin"], ConfigError, "did you mean 'reading'"),
        (["--model", "/absent", "--suite", "reading"], InputError, r"no config\.json"),
        (["--model", TINY, "--suite", "reading", "--prompt", "answr"], ConfigError, "did you mean 'answer'"),
        (["--model", "/absent", "--suite", "lm_eval:x", "--include-path", "/absent"], InputError, "expected a folder of task"),
    ],
)
def test_bad_usage_is_named(tmp_path: Path, arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call("evaluate", *arguments, "--out", str(tmp_path / "out"), fails=error)
    assert not (tmp_path / "out").exists()


def test_the_list_of_suites() -> None:
    found = json.loads(call("suites", "--json").stdout)
    assert list(found) == suite_names()
    assert found["reading"]["metrics"] == ["exact_match", "rouge_l"]
    lines = call("suites").stdout
    assert "safety:" in lines
    assert all(name in lines for name in suite_names())


def test_the_gate_knows_of_which_metrics_less_is_better(tmp_path: Path) -> None:
    evaluate(TINY, tmp_path, "injection", limit="4")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert {row["metric"] for row in rows if row.get("lower_is_better")} == {"obeyed"}
    assert lower_is_better(tmp_path / "rows.jsonl", rows) == ("injection/obeyed",)
