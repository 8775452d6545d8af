"""`llm-pipeline gate` on files: what it prints, how it ends, and what it says about files that it cannot use."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app, main

Ran = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line as a process sees it: exit code, stdout, stderr."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["llm-pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return call


def line(i: int, score: object, metric: str = "em", **more: object) -> str:
    return json.dumps({"id": f"q{i}", "metric": metric, "score": score} | more)


def file(folder: Path, name: str, right: int, n: int = 200, metric: str = "em") -> Path:
    path = folder / name
    path.write_text("".join(line(i, int(i < right), metric) + "\n" for i in range(n)), "utf-8")
    return path


def test_the_three_verdicts_and_their_exit_codes(run: Any, tmp_path: Path) -> None:
    old = file(tmp_path, "old.jsonl", 100)
    for right, verdict, code in ((140, "promote", 0), (60, "reject", 3), (101, "insufficient", 4)):
        new = file(tmp_path, "new.jsonl", right)
        ended, out, _ = run("gate", old, new, "--json")
        found = json.loads(out)
        assert (ended, found["verdict"]) == (0, verdict)
        assert set(found) == {"verdict", "metrics", "reasons", "notes"}
        assert {"n", "champion", "challenger", "difference", "interval", "p_value", "adjusted_p", "role", "test", "margin"} <= set(
            found["metrics"]["em"]
        )
        assert found["reasons"][0].startswith("em (primary)")
        ended, out, _ = run("gate", old, new, "--exit-code")
        assert (ended, out.split("\n")[0]) == (code, verdict)


def test_gzip_a_byte_order_mark_and_blank_lines_are_fine(run: Any, tmp_path: Path) -> None:
    old, new = file(tmp_path, "old.jsonl", 100), file(tmp_path, "new.jsonl", 140)
    plain = run("gate", old, new, "--json")[1]
    packed, marked = tmp_path / "old.jsonl.gz", tmp_path / "marked.jsonl"
    packed.write_bytes(gzip.compress(old.read_bytes()))
    marked.write_bytes(b"\xef\xbb\xbf" + new.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert run("gate", packed, marked, "--json")[1] == plain


def test_options_win_over_the_policy_file(run: Any, tmp_path: Path) -> None:
    old, new = file(tmp_path, "old.jsonl", 100), file(tmp_path, "new.jsonl", 60)
    policy = tmp_path / "gate.yaml"
    policy.write_text("lower_is_better: [em]\nmargins: {em: 0.1}\n", "utf-8")
    found = json.loads(run("gate", old, new, "--policy", policy, "--json")[1])
    assert (found["verdict"], found["metrics"]["em"]["margin"]) == ("promote", 0.1)
    found = json.loads(run("gate", old, new, "--policy", policy, "--margin", "em=0.3", "--json")[1])
    assert found["metrics"]["em"]["margin"] == 0.3
    policy.write_text("margns: {em: 0.1}\n", "utf-8")
    ended, _, err = run("gate", old, new, "--policy", policy)
    assert (ended, "did you mean 'margins'" in err) == (1, True)


def test_rows_may_say_that_less_is_better(run: Any, tmp_path: Path) -> None:
    for name, right in (("old.jsonl", 100), ("new.jsonl", 60)):
        rows = (line(i, int(i < right), "leak", lower_is_better=True) for i in range(200))
        (tmp_path / name).write_text("\n".join(rows), "utf-8")
    assert run("gate", tmp_path / "old.jsonl", tmp_path / "new.jsonl")[1].startswith("promote")


@pytest.mark.parametrize(
    "options",
    [
        ["--margin", "em"],
        ["--margin", "em=much"],
        ["--margin", "=1"],
        ["--margin", "f1=0.1"],
        ["--margin", "em=-1"],
        ["--primary", "f1"],
        ["--nope"],
    ],
)
def test_bad_usage_ends_with_2(run: Any, tmp_path: Path, options: list[str]) -> None:
    old = file(tmp_path, "old.jsonl", 100)
    assert run("gate", old, old, *options)[0] == 2
    assert run("gate", old)[0] == 2
    assert run("gate", old, tmp_path / "absent.jsonl")[0] == 2


BROKEN: dict[str, tuple[bytes, str]] = {
    "twice": (f"{line(1, 1)}\n{line(2, 1)}\n{line(1, 0)}\n".encode(), "new.jsonl:3: metric 'em' of id 'q1' stands in line 1 already"),
    "nan": (
        f'{line(1, 1)}\n{{"id": "q2", "metric": "em", "score": NaN}}\n'.encode(),
        "new.jsonl:2: score of 'q2': expected a finite number",
    ),
    "infinite": (b'{"id": "q2", "metric": "em", "score": 1e999}\n', "new.jsonl:1: score of 'q2'"),
    "text": (line(1, "1").encode(), 'received "1"'),
    "null": (line(1, None).encode(), "received null"),
    "no score": (b'{"id": "q1", "metric": "em"}\n', "new.jsonl:1: no score; expected the keys id, metric, score, received id, metric"),
    "no id": (b'{"metric": "em", "score": 1}\n', "no id"),
    "id of a list": (b'{"id": [1], "metric": "em", "score": 1}\n', "id: expected a text or an integer, received [1]"),
    "metric of a number": (b'{"id": 1, "metric": 3, "score": 1}\n', "metric: expected a name, received 3"),
    "list": (b"[1, 2]\n", "new.jsonl:1: expected an object"),
    "cut off": (f'{line(1, 1)}\n{{"id": "q2", "met'.encode(), "new.jsonl:2: expected one JSON object per line"),
    "deep": (b"[" * 100_000, "new.jsonl:1: expected one JSON object per line"),
    "many digits": (b'{"id": "q", "metric": "em", "score": ' + b"9" * 400 + b"}", "expected a finite number"),
    "empty": (b"", "no scored rows"),
    "blank": (b"\n \n", "no scored rows"),
    "latin-1": (f"{line(1, 1)}\n".encode() + '{"id": "é"}'.encode("latin-1"), "new.jsonl:2: expected UTF-8, received the byte 0xe9"),
    "utf-16": (line(1, 1).encode("utf-16"), "new.jsonl:1: expected UTF-8"),
    "cut gzip": (gzip.compress(line(1, 1).encode() * 50)[:-9], "expected a whole gzip file"),
    "other metric": (b"".join(line(i, 1, "f1").encode() + b"\n" for i in range(200)), "the challenger has no scores of em"),
    "other ids": (b"".join(line(i + 150, 1).encode() + b"\n" for i in range(200)), "em: 50 ids stand on both sides, of 200"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_used_ends_with_1_and_names_the_row(run: Any, tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    new = tmp_path / "new.jsonl"
    new.write_bytes(content)
    ended, out, err = run("gate", file(tmp_path, "old.jsonl", 100), new, "--json")
    assert (ended, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err


def test_gzip_by_name_only(run: Any, tmp_path: Path) -> None:
    old = file(tmp_path, "old.jsonl.gz", 100)
    ended, _, err = run("gate", old, old)
    assert (ended, "expected gzip by its name" in err) == (1, True)


def test_the_help_shows_examples() -> None:
    shown = CliRunner().invoke(app, ["gate", "--help"]).output
    assert "--exit-code" in shown
    assert "old.jsonl new.jsonl" in shown
