"""A judge decides only what people agree with: calibration, refusal, both orders, and rows that the gate takes or refuses."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.config import load
from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.judge import Judge, Judged, positions, preference_rows, scored_rows
from llm_pipeline.evaluation.judge_calibration import (
    POLICY,
    Calibration,
    JudgePolicy,
    calibrate,
    may_gate,
    read_calibration,
    run_refusal,
)
from llm_pipeline.evaluation.judge_cases import Case, paired, read_cases
from llm_pipeline.evaluation.judge_client import Endpoint
from llm_pipeline.evaluation.judge_labels import Labelled, read_labels
from llm_pipeline.evaluation.judge_rubric import load_rubric
from llm_pipeline.evaluation.scores import read_rows, scores_of
from llm_pipeline.store import write_jsonl
from llm_pipeline_tests.evaluation.judge_server import Answer, Script, completion

GRADE, PREFER = load_rubric("correctness"), load_rubric("preference")
RUNNER = CliRunner()


def answers_in(body: dict[str, Any]) -> list[str]:
    """The answers that a request shows, in their order."""
    return re.findall(r"<<ANSWER.*?>>\n(.*?)\n<<END", body["messages"][-1]["content"], re.DOTALL)


def worth(answer: str) -> int:
    """Test answers carry their worth, `worth 4`."""
    found = re.search(r"worth (\d)", answer)
    return int(found[1]) if found else 1


def expert(body: dict[str, Any], number: int) -> Answer:
    """A judge that knows, and now and then errs by one."""
    shown = [worth(answer) for answer in answers_in(body)]
    if len(shown) == 2:
        winner = "tie" if shown[0] == shown[1] else "A" if shown[0] > shown[1] else "B"
        return completion(json.dumps({"reason": "I know", "winner": winner}))
    return completion(json.dumps({"reason": "I know", "score": min(5, shown[0] + (random.Random(str(body)).random() < 0.15))}))


def first_slot(body: dict[str, Any], number: int) -> Answer:
    return completion('{"reason": "the first", "winner": "A"}')


@pytest.fixture
def judge_by() -> Iterator[Callable[..., Judge]]:
    scripts: list[Script] = []

    def make(reply: Callable[[dict[str, Any], int], Answer], rubric: Any = GRADE) -> Judge:
        scripts.append(Script(reply))
        return Judge(rubric, Endpoint(scripts[-1].url, "m", attempts=1))

    yield make
    for script in scripts:
        script.close()


def case(name: str, answer: str, **columns: Any) -> Case:
    return Case("s", name, f"question {name}?", answer, "worth 5", {}, {"suite": "s", "id": name, **columns})


def labelled(n: int, seed: int = 0) -> list[Labelled]:
    """Answers whose length says nothing about their worth."""
    r = random.Random(seed)
    return [Labelled(case(f"q{i}", f"worth {(w := r.randint(1, 5))} " + "x" * r.randint(1, 60)), None, w) for i in range(n)]


def labelled_pairs(n: int, seed: int = 0) -> list[Labelled]:
    r = random.Random(seed)
    found = []
    for i in range(n):
        one, other = (r.randint(1, 3) for _ in range(2))
        a, b = (case(f"q{i}", f"worth {w} " + "x" * r.randint(1, 60)) for w in (one, other))
        found.append(Labelled(a, b, "tie" if one == other else "A" if one > other else "B"))
    return found


def test_a_judge_that_agrees_with_people_may_gate(judge_by: Callable[..., Judge]) -> None:
    judge = judge_by(expert)
    found = calibrate(judge, labelled(200))
    assert found.measure == "cohen_quadratic"
    assert found.kappa.low > 0.9
    assert found.baselines["longer"]["gain"]["low"] > 0.5
    assert may_gate(found, JudgePolicy(), judge.id) == (True, f"kappa {found.kappa} on 200 labels, above every baseline")


def test_a_judge_of_pairs_may_gate_too(judge_by: Callable[..., Judge]) -> None:
    judge = judge_by(expert, PREFER)
    found = calibrate(judge, labelled_pairs(160))
    assert (found.raw, found.consistency, found.first_share) == (1.0, 1.0, 0.5)
    assert set(found.baselines) == {"longer", "shorter", "first", "commonest_label"}
    assert may_gate(found, JudgePolicy(), judge.id)[0]


def test_a_judge_that_goes_by_order_calls_everything_a_tie_and_may_not_gate(judge_by: Callable[..., Judge]) -> None:
    judge = judge_by(first_slot, PREFER)
    pairs = labelled_pairs(160)
    judged, _ = judge.prefer([(p.case, p.other or p.case) for p in pairs])
    assert {j.verdict for j in judged} == {"tie"}
    assert positions(judged) == {"pairs": 160, "consistent": 0.0, "first_share": 1.0}
    allowed, reason = may_gate(calibrate(judge, pairs), JudgePolicy())
    assert not allowed
    assert "0% of pairs have the same verdict in both orders" in reason
    assert "does not surely beat" in reason


def test_a_judge_that_goes_by_length_does_not_beat_length(judge_by: Callable[..., Judge]) -> None:
    """People here do like longer answers: high agreement, and yet the judge shows nothing that counting letters does not."""

    def by_length(body: dict[str, Any], number: int) -> Answer:
        a, b = map(len, answers_in(body))
        return completion(json.dumps({"reason": "longer", "winner": "tie" if a == b else "A" if a > b else "B"}))

    r = random.Random(0)
    pairs = []
    for i in range(200):
        a, b = (case(f"q{i}", "x" * r.randint(1, 60)) for _ in range(2))
        longer = "A" if len(a.answer) > len(b.answer) else "B"
        pairs.append(Labelled(a, b, longer if r.random() < 0.9 else "tie"))
    found = calibrate(judge_by(by_length, PREFER), pairs)
    assert found.kappa.low > 0.6
    assert may_gate(found, JudgePolicy()) == (False, "does not surely beat longer (gain 0.00 [0.00, 0.00])")
    assert may_gate(found, JudgePolicy(beat_baselines=False))[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 149}, "149 labels, at least 150 needed"),
        ({"unparsable": 0.2}, "20% without a verdict"),
        ({"judge": "another"}, "the calibration is of another judge"),
        ({"consistency": 0.5}, "50% of pairs"),
    ],
)
def test_each_condition_alone_refuses(judge_by: Callable[..., Judge], change: dict[str, Any], reason: str) -> None:
    judge = judge_by(expert)
    found = replace(calibrate(judge, labelled(150)), **change)
    allowed, why = may_gate(found, load(JudgePolicy, POLICY), judge.id)
    assert not allowed
    assert why.startswith(reason)
    assert ";" not in why


def test_without_calibration_or_with_one_label_only_nothing_gates(judge_by: Callable[..., Judge]) -> None:
    assert may_gate(None, JudgePolicy()) == (
        False,
        "no calibration: the judge's agreement with people is not known; run `llm-pipeline judge calibrate`",
    )
    same = [Labelled(case(f"q{i}", "worth 5"), None, 5) for i in range(200)]
    assert "kappa nan" in may_gate(calibrate(judge_by(expert), same), JudgePolicy())[1]


def test_a_run_with_too_many_gaps_may_not_gate(judge_by: Callable[..., Judge]) -> None:
    judge = judge_by(expert)
    found = calibrate(judge, labelled(150))
    whole, gap = Judged(4, "", "", ()), Judged(None, "", "empty reply", ())
    assert run_refusal(found, JudgePolicy(), judge.id, [whole] * 19 + [gap]) == ""
    assert "10% of the cases without a verdict" in run_refusal(found, JudgePolicy(), judge.id, [whole] * 18 + [gap] * 2)


def test_labels_that_say_pass_or_fail_are_compared_as_such(judge_by: Callable[..., Judge]) -> None:
    labels = [replace(item, label=isinstance(item.label, int) and item.label >= 4) for item in labelled(200)]
    found = calibrate(judge_by(expert), labels)
    assert found.measure == "cohen"
    assert found.passing is not None
    assert found.passing.only_people == 0
    assert found.passing.only_judge > 0
    assert found.raw == pytest.approx((found.passing.both + found.passing.neither) / 200)


def test_an_unparsable_or_failed_reply_is_recorded_and_never_a_score(judge_by: Callable[..., Judge]) -> None:
    replies = {"one": completion("I think it is quite good"), "two": (500, {"error": "down"}, {})}

    def some(body: dict[str, Any], number: int) -> Answer:
        return next((reply for name, reply in replies.items() if f"question {name}?" in str(body)), expert(body, number))

    judge = judge_by(some)
    cases = [case(name, "worth 3") for name in ("one", "two", "three")]
    judged, usage = judge.score(cases)
    assert [j.verdict is None for j in judged] == [True, True, False]
    assert judged[0].problem == "ends neither in a JSON object with the verdict nor in a line VERDICT"
    assert judged[1].problem.startswith("request failed: HTTP 500")
    assert usage["failed"] == 1
    assert [row["score"] for row in scored_rows(judge, cases, judged)][:2] == [None, None]


def test_one_order_without_a_verdict_leaves_the_pair_without_one(judge_by: Callable[..., Judge]) -> None:
    def half(body: dict[str, Any], number: int) -> Answer:
        return completion("hm") if worth(answers_in(body)[0]) == 2 else expert(body, number)

    judge = judge_by(half, PREFER)
    judged, _ = judge.prefer([(case("q", "worth 3"), case("q", "worth 2"))])
    assert judged[0].verdict is None
    assert judged[0].seen == ("A", None)
    assert positions(judged)["pairs"] == 0


def test_scores_of_both_sides_of_a_pair_sum_to_one(judge_by: Callable[..., Judge]) -> None:
    judge = judge_by(expert, PREFER)
    pairs = [(case("q1", "worth 3"), case("q1", "worth 2")), (case("q2", "worth 1"), case("q2", "worth 1"))]
    first, second = preference_rows(judge, pairs, judge.prefer(pairs)[0])
    assert [row["score"] for row in first] == [1.0, 0.5]
    assert [row["score"] for row in second] == [0.0, 0.5]


def test_the_wrong_kind_of_rubric_and_a_missing_reference_are_refused(judge_by: Callable[..., Judge]) -> None:
    with pytest.raises(InputError, match="rubric preference is pairwise, expected a pointwise one"):
        judge_by(expert, PREFER).score([case("q", "a")])
    with pytest.raises(InputError, match="the case 'q' has none"):
        judge_by(expert).score([replace(case("q", "a"), reference=None)])


def test_cases_come_from_rows_of_an_evaluation_or_plain_ones(tmp_path: Path) -> None:
    row = {"suite": "facts", "id": "q1", "question": "q", "answer": "a", "reference": "r"}
    write_jsonl(tmp_path / "rows.jsonl", [row | {"metric": "em", "score": 1}, row | {"metric": "rouge_l", "score": 0.5}])
    (found,) = read_cases(tmp_path)
    assert found.scores == {"em": 1.0, "rouge_l": 0.5}
    write_jsonl(tmp_path / "bad.jsonl", [row, row | {"answer": "other"}])
    with pytest.raises(InputError, match=r"bad.jsonl:2: id 'q1' stands twice with different texts"):
        read_cases(tmp_path / "bad.jsonl")
    write_jsonl(tmp_path / "bad.jsonl", [{"id": "q1", "prompt": "q"}])
    with pytest.raises(InputError, match=r"bad.jsonl:1: question: expected a text, received None; the row has id, prompt"):
        read_cases(tmp_path / "bad.jsonl")


def test_half_a_character_is_refused_in_a_file_and_replaced_in_a_reply(tmp_path: Path, judge_by: Callable[..., Judge]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "q", "question": "q", "answer": "\\ud800"}\n')
    with pytest.raises(InputError, match=r"bad.jsonl:1: half of a surrogate pair"):
        read_cases(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(InputError, match="expected UTF-8"):
        read_cases(tmp_path / "bad.jsonl")
    judge = judge_by(lambda body, n: completion('{"reason": "\ud800", "score": 3}'))
    judged, _ = judge.score([case("q", "a")])
    assert (judged[0].verdict, judged[0].reason) == (3, "?")


def test_pairs_are_the_questions_that_both_answered() -> None:
    one, other = [case("q1", "a"), case("q2", "b")], [case("q2", "c"), case("q3", "d")]
    assert [(a.answer, b.answer) for a, b in paired(one, other)] == [("b", "c")]
    with pytest.raises(InputError, match="no case in common"):
        paired(one[:1], other)
    with pytest.raises(InputError, match="two questions"):
        paired(one, [replace(case("q2", "c"), question="another?")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "question": "q", "answer": "x", "label": 6}], "label: received 6, expected one of true, false, 1, 2"),
        ([{"id": "a", "question": "q", "answer": "x"}], "label: received None"),
        ([{"id": "a", "question": "q", "answer": "x", "label": 1}] * 2, "id 'a' stands twice"),
        ([{"id": i, "question": "q", "answer": "x", "label": x} for i, x in enumerate((True, 4))], "expected one kind"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    write_jsonl(tmp_path / "labels.jsonl", rows)
    with pytest.raises(InputError, match=re.escape(message)):
        read_labels(tmp_path / "labels.jsonl", GRADE)


def written(path: Path, labels: list[Labelled]) -> Path:
    def row(item: Labelled) -> dict[str, Any]:
        texts = {"answer_a": item.case.answer, "answer_b": item.other.answer} if item.other else {"answer": item.case.answer}
        return {"suite": "s", "id": item.case.id, "question": item.case.question, "reference": "worth 5", "label": item.label} | texts

    write_jsonl(path, [row(item) for item in labels])
    return path


def invoke(*arguments: object) -> tuple[int, Any]:
    result = RUNNER.invoke(app, ["judge", *map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else result.exception


def test_the_verbs_from_labels_to_rows_that_the_gate_takes(tmp_path: Path, home: object) -> None:
    labels = written(tmp_path / "labels.jsonl", labelled(200))
    answers = written(tmp_path / "answers.jsonl", labelled(60, seed=9))
    with Script(expert) as script:
        options = ("--rubric", "correctness", "--url", script.url, "--model", "m")
        code, error = invoke("run", answers, *options, "--out", tmp_path / "rows.jsonl", "--for-gate")
        assert code == 1
        assert "may not gate: no calibration" in str(error)
        assert script.bodies == []

        code, facts = invoke("run", answers, *options, "--out", tmp_path / "rows.jsonl")
        assert facts["gate_eligible"] is False
        with pytest.raises(InputError, match="expected a finite number, true or false, received null"):
            read_rows(tmp_path / "rows.jsonl")

        code, record = invoke("calibrate", labels, *options, "--out", tmp_path / "calibration.json")
        assert record["may_gate"] is True
        known = read_calibration(tmp_path / "calibration.json")
        assert isinstance(known, Calibration)
        assert known.kappa.mean == record["kappa"]["mean"]

        asked = len(script.bodies)
        gate = ("--calibration", tmp_path / "calibration.json", "--for-gate")
        code, facts = invoke("run", answers, *options, "--out", tmp_path / "rows.jsonl", *gate)
        assert code == 0
        assert facts["gate_eligible"] is True
        assert facts["usage"]["cached"] == 60
        assert len(script.bodies) == asked
        assert facts["corrected_pass_rate"]["mean"] < facts["pass_rate"]["mean"]
        scores = scores_of(read_rows(tmp_path / "rows.jsonl"))["s/judge_correctness"]
        assert len(scores) == 60
        assert set(scores.values()) <= {0, 0.25, 0.5, 0.75, 1}

        code, error = invoke("run", answers, *options[:-1], "another", "--out", tmp_path / "rows.jsonl", *gate)
        assert code == 1
        assert "of another judge" in str(error)


def test_the_verb_for_pairs_and_rows_without_a_verdict(tmp_path: Path, home: object) -> None:
    def gaps(body: dict[str, Any], number: int) -> Answer:
        return completion("no idea") if "question q3?" in str(body) else expert(body, number)

    for name, shift in (("A.jsonl", 0), ("B.jsonl", 1)):
        write_jsonl(tmp_path / name, [{"id": f"q{i}", "question": f"question q{i}?", "answer": f"worth {1 + shift}"} for i in range(10)])
    with Script(gaps) as script:
        code, facts = invoke("pairs", tmp_path / "A.jsonl", tmp_path / "B.jsonl", "--url", script.url, "--out", tmp_path / "out")
        assert code == 0
        assert (facts["A"], facts["B"], facts["tie"], facts["unparsable"], facts["consistent"]) == (0, 9, 0, 1, 1.0)
        rows = [json.loads(line) for line in (tmp_path / "out" / "B.jsonl").read_text().splitlines()]
        assert [row["judged"] for row in rows] == [1.0] * 9
        unscored = [json.loads(line) for line in (tmp_path / "out" / "B.unscored.jsonl").read_text().splitlines()]
        assert [row["id"] for row in unscored] == ["q3"]


def test_a_calibration_with_nothing_to_agree_on_is_written_and_read(tmp_path: Path, home: object) -> None:
    labels = written(tmp_path / "labels.jsonl", [Labelled(case(f"q{i}", "worth 5"), None, 5) for i in range(160)])
    with Script(expert) as script:
        options = ("--rubric", "correctness", "--url", script.url)
        code, record = invoke("calibrate", labels, *options, "--out", tmp_path / "c.json")
    assert code == 0
    assert record["kappa"]["mean"] is None
    assert may_gate(read_calibration(tmp_path / "c.json"), JudgePolicy())[0] is False


def test_rubrics_are_listed() -> None:
    code, found = invoke("rubrics")
    assert code == 0
    assert found["preference"]["verdicts"] == ["A", "B", "tie"]
