"""The verbs of curation on plain files: columns, ids as they came in, summaries for scripts, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app, main
from llm_pipeline_tests.curation.test_curate import LEAK, prose

NATURAL = (
    "The lighthouse at the end of the pier was built when sailing ships still carried most of the grain that left this coast. "
    "Its keeper lived with his family in two rooms below the lamp, and twice a day he wound the clockwork that turned the lens. "
    "After the war an electric motor took over that work. Today nobody lives in the tower, but in summer volunteers open the "
    "door to visitors, explain how the light was made, and let children try the heavy brass handle for themselves."
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    texts = [
        prose("harbours"),
        prose("harbours"),
        prose("bridges") + " " + LEAK,
        "Call me on +44 20 7946 0958 or at me@example.org.",
        "zxq " * 50,
        NATURAL,
    ]
    pq.write_table(pa.table({"id": [10, 20, 30, 40, 50, 60], "text": texts, "owner": list("abcdef")}), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def run(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_scrub_carries_other_columns_and_never_writes_a_value(corpus: Path, tmp_path: Path) -> None:
    summary = run("scrub", corpus, tmp_path / "out.parquet", "--spans", tmp_path / "spans.parquet")
    made = rows(tmp_path / "out.parquet")
    assert [(row["id"], row["owner"]) for row in made] == [(10, "a"), (20, "b"), (30, "c"), (40, "d"), (50, "e"), (60, "f")]
    assert made[3]["text"] == "Call me on [PHONE_NUMBER] or at [EMAIL_ADDRESS]."
    spans = rows(tmp_path / "spans.parquet")
    assert list(spans[0]) == ["id", "start", "end", "entity", "score", "recogniser"]
    assert {(span["id"], span["entity"]) for span in spans} == {(40, "PHONE_NUMBER"), (40, "EMAIL_ADDRESS")}
    assert summary["entities"] == {"PHONE_NUMBER": 1, "EMAIL_ADDRESS": 1}


def test_dedup_names_the_kept_twin(corpus: Path, tmp_path: Path) -> None:
    summary = run("dedup", corpus, tmp_path / "out.parquet")
    verdicts = {row["id"]: row for row in rows(tmp_path / "out.parquet")}
    assert [row["id"] for row in verdicts.values() if not row["keep"]] == [20]
    assert (verdicts[20]["reason"], verdicts[20]["kept_id"], verdicts[20]["cluster_id"]) == ("exact_duplicate", 10, 10)
    assert summary["reasons"] == {"exact_duplicate": 1}


def test_decontaminate_names_the_question(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.jsonl").write_text(json.dumps({"id": 7, "question": LEAK, "answer": "The second."}) + "\n")
    run("decontaminate", corpus, "--against", tmp_path / "suite.jsonl", tmp_path / "out.parquet")
    [leaked] = [row for row in rows(tmp_path / "out.parquet") if not row["keep"]]
    assert (leaked["id"], leaked["matched_id"], leaked["overlap"]) == (30, "7", 1.0)


def test_filter_gives_scores_and_a_kind_changes_the_limits(corpus: Path, tmp_path: Path) -> None:
    strict, lenient = tmp_path / "strict.parquet", tmp_path / "lenient.parquet"
    run("filter", corpus, strict)
    run("filter", corpus, lenient, "--kind", "note")
    reasons = {row["id"]: (row["reason"], other["reason"]) for row, other in zip(rows(strict), rows(lenient), strict=True)}
    assert reasons[60] == ("", "")
    assert reasons[40] == ("word_count", "")
    assert all(reasons[50])
    assert {"word_count", "toxicity", "hidden_unicode"} <= set(rows(strict)[0])


def test_exit_codes(corpus: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["scrub", str(tmp_path / "none.jsonl"), str(tmp_path / "out.parquet")]).exit_code == 2
    assert runner.invoke(app, ["filter", str(corpus), str(tmp_path / "out.parquet"), "--kind", "poem"]).exit_code == 2
    assert runner.invoke(app, ["dedup", str(corpus), str(tmp_path / "out.parquet"), "--threshold", "7"]).exit_code == 2
    assert runner.invoke(app, ["scrub", str(corpus), str(tmp_path)]).exit_code == 2
    assert (
        runner.invoke(app, ["scrub", str(corpus), str(tmp_path / "out.parquet"), "--spans", str(tmp_path / "out.parquet")]).exit_code == 2
    )
    assert not (tmp_path / "out.parquet").exists()


def test_what_the_system_refuses_is_an_error_without_a_traceback(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["llm-pipeline", "filter", str(corpus), "/dev/full/out.parquet"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert re.match(r"error: \[Errno \d+\] .*'/dev/full", capsys.readouterr().err)
