"""`llm-pipeline judge ...`: grade, compare, calibrate; and `llm-pipeline review ...`, see cli_review."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.cli_review import review_app
from llm_pipeline.shell import HomeOption, JsonOption, open_home, show
from llm_pipeline.store import write_atomically, write_jsonl

if TYPE_CHECKING:
    from llm_pipeline.evaluation.judge import Judge, Judged
    from llm_pipeline.evaluation.judge_calibration import Calibration, JudgePolicy

judge_app = typer.Typer(no_args_is_help=True, help="A model as judge, measured against people before it may decide anything.")

RubricOption = Annotated[str, typer.Option(help="Name in data/judges/, or a YAML file.")]
UrlOption = Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8399/v1.")]
ModelOption = Annotated[str, typer.Option(help="Model to ask for.")]
KeyOption = Annotated[str, typer.Option("--key-env", help="Name of the environment variable that holds the API key.")]
SamplingOption = Annotated[str, typer.Option(help="Further fields of each request, as JSON.")]
ConcurrencyOption = Annotated[int, typer.Option(help="Most requests at once.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for one attempt.")]
PriceOption = Annotated[str, typer.Option("--price", help="Price per million tokens: IN,OUT.")]
CacheOption = Annotated[Path | None, typer.Option(help="File of replies already paid for; default HOME/judge/replies.sqlite.")]
CalibrationOption = Annotated[Path | None, typer.Option(help="What `judge calibrate` wrote for this rubric and model.")]
PolicyOption = Annotated[Path | None, typer.Option(help="What a judge must have shown; default data/policies/judges.yaml.")]
GateOption = Annotated[bool, typer.Option("--for-gate", help="Fail unless the calibration allows these scores to gate.")]
SAMPLING = '{"temperature": 0, "max_tokens": 1024}'


def register(app: typer.Typer) -> None:
    app.add_typer(judge_app, name="judge")
    app.add_typer(review_app, name="review")


@judge_app.command()
def run(
    answers: Annotated[Path, typer.Argument(help="Rows {id, question, answer, reference}, or what `llm-pipeline evaluate` wrote.")],
    rubric: RubricOption,
    url: UrlOption,
    out: Annotated[Path, typer.Option(help="JSONL of rows id, metric, score; those without a verdict go beside it.")],
    model: ModelOption = "default",
    key_env: KeyOption = "",
    sampling: SamplingOption = SAMPLING,
    concurrency: ConcurrencyOption = 8,
    timeout: TimeoutOption = 120.0,
    price: PriceOption = "0,0",
    cache: CacheOption = None,
    calibration: CalibrationOption = None,
    policy: PolicyOption = None,
    for_gate: GateOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grade every answer by a rubric.

    Without a calibration that allows it, `score` is null (the figure is under `judged`) and `llm-pipeline gate` refuses the rows.
    Example: llm-pipeline judge run answers.jsonl --rubric correctness --url http://127.0.0.1:8399/v1 --out judged.jsonl
    """
    from llm_pipeline.evaluation.judge import scored_rows
    from llm_pipeline.evaluation.judge_cases import read_cases

    judge = _judge(rubric, url, model, key_env, sampling, concurrency, timeout, price, cache or _replies(home))
    known, rules = _admitted(judge, calibration, policy, for_gate)
    cases = read_cases(answers)
    with _Progress("judging") as progress:
        judged, usage = judge.score(cases, progress)
    refusal = _refusal(judge, judged, known, rules, for_gate)
    unscored = _write(out, scored_rows(judge, cases, judged, refusal))
    show(_facts(judge, judged, usage, refusal, known) | {"out": str(out)} | unscored, as_json)


@judge_app.command()
def pairs(
    first: Annotated[Path, typer.Argument(help="Answers of one model (A).", metavar="A.jsonl")],
    second: Annotated[Path, typer.Argument(help="Answers of the other to the same questions (B).", metavar="B.jsonl")],
    url: UrlOption,
    out: Annotated[Path, typer.Option(help="Folder for A.jsonl and B.jsonl: 1 for the preferred answer, 0 for the other, 0.5 for a tie.")],
    rubric: RubricOption = "preference",
    model: ModelOption = "default",
    key_env: KeyOption = "",
    sampling: SamplingOption = SAMPLING,
    concurrency: ConcurrencyOption = 8,
    timeout: TimeoutOption = 120.0,
    price: PriceOption = "0,0",
    cache: CacheOption = None,
    calibration: CalibrationOption = None,
    policy: PolicyOption = None,
    for_gate: GateOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models' answers, each pair in both orders; where the orders disagree the pair is a tie.

    Example: llm-pipeline judge pairs champion.jsonl challenger.jsonl --url http://127.0.0.1:8399/v1 --out judged/
    """
    from llm_pipeline.evaluation.judge import positions, preference_rows
    from llm_pipeline.evaluation.judge_cases import paired, read_cases

    judge = _judge(rubric, url, model, key_env, sampling, concurrency, timeout, price, cache or _replies(home))
    known, rules = _admitted(judge, calibration, policy, for_gate)
    both = paired(read_cases(first), read_cases(second))
    with _Progress("judging") as progress:
        judged, usage = judge.prefer(both, progress)
    refusal = _refusal(judge, judged, known, rules, for_gate)
    unscored: dict[str, Any] = {}
    for name, rows in zip(("A.jsonl", "B.jsonl"), preference_rows(judge, both, judged, refusal), strict=True):
        unscored |= _write(out / name, rows)
    wins = {name: sum(j.verdict == name for j in judged) for name in ("A", "B", "tie")}
    show(_facts(judge, judged, usage, refusal, known) | wins | positions(judged) | {"out": str(out)} | unscored, as_json)


@judge_app.command()
def calibrate(
    labels: Annotated[Path, typer.Argument(help="Human labels: rows {id, question, answer, label}; for pairs answer_a and answer_b.")],
    rubric: RubricOption,
    url: UrlOption,
    out: Annotated[Path | None, typer.Option(help="JSON file for the calibration, which --calibration takes.")] = None,
    model: ModelOption = "default",
    key_env: KeyOption = "",
    sampling: SamplingOption = SAMPLING,
    concurrency: ConcurrencyOption = 8,
    timeout: TimeoutOption = 120.0,
    price: PriceOption = "0,0",
    cache: CacheOption = None,
    policy: PolicyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a judge against human labels: kappa with its interval, beside judges that see only length, order or the commonest label.

    Example: llm-pipeline judge calibrate labels.jsonl --rubric correctness --url http://127.0.0.1:8399/v1 --out calibration.json
    """
    from llm_pipeline.evaluation.judge_calibration import calibrate as measure
    from llm_pipeline.evaluation.judge_calibration import may_gate
    from llm_pipeline.evaluation.judge_labels import read_labels

    judge = _judge(rubric, url, model, key_env, sampling, concurrency, timeout, price, cache or _replies(home))
    known = read_labels(labels, judge.rubric)
    with _Progress("judging") as progress:
        found = measure(judge, known, progress)
    allowed, reason = may_gate(found, _policy(policy))
    record = _finite(found.json() | {"may_gate": allowed, "gate_reason": reason})
    if out:
        write_atomically(out, json.dumps(record, indent=1))
    shown = record if as_json else {key: value for key, value in record.items() if key not in ("baselines", "kappa")}
    gains = {f"against {name}": f"kappa {b['kappa']:.3f}, gain {b['gain']['mean']:.3f}" for name, b in found.baselines.items()}
    show(shown if as_json else {"kappa": str(found.kappa)} | shown | gains, as_json)


@judge_app.command()
def rubrics(as_json: JsonOption = False) -> None:
    """The rubrics that ship: kind, version, verdicts."""
    from llm_pipeline.evaluation.judge_rubric import RUBRICS, load_rubric

    found = [load_rubric(path) for path in sorted(RUBRICS.glob("*.yaml"))]
    show({r.name: {"kind": r.kind, "id": r.id, "verdicts": [str(v) for v in r.verdicts], "reference": r.reference} for r in found}, as_json)


@judge_app.command("serve-baseline")
def serve_baseline(port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 for any free one.")] = 8399) -> None:
    """A stand-in judge to try things offline: word overlap, NO language model; its verdicts mean little and may not gate.

    Example: llm-pipeline judge serve-baseline --port 8399
    """
    from llm_pipeline.evaluation.judge_baseline import MODEL, serve

    with serve(port) as server:
        typer.echo(f"{MODEL} (a heuristic, no language model) on http://127.0.0.1:{server.server_port}/v1", err=True)
        server.serve_forever()


def _replies(home: Path | None) -> Path:
    return open_home(home).root / "judge" / "replies.sqlite"


def _judge(
    rubric: str, url: str, model: str, key_env: str, sampling: str, concurrency: int, timeout: float, price: str, cache: Path
) -> Judge:
    from llm_pipeline.evaluation.judge import Judge
    from llm_pipeline.evaluation.judge_client import Endpoint
    from llm_pipeline.evaluation.judge_rubric import load_rubric

    try:
        fields = json.loads(sampling)
        price_in, price_out = map(float, price.split(","))
    except ValueError as error:
        raise ConfigError(f"received --sampling {sampling!r} and --price {price!r}, expected a JSON object and IN,OUT: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"--sampling: received {sampling!r}, expected a JSON object")
    endpoint = Endpoint(url, model, key_env, fields, concurrency=concurrency, timeout=timeout, price_in=price_in, price_out=price_out)
    return Judge(load_rubric(rubric), endpoint, cache)


def _policy(path: Path | None) -> JudgePolicy:
    from llm_pipeline.config import load
    from llm_pipeline.evaluation.judge_calibration import POLICY, JudgePolicy

    return load(JudgePolicy, path or POLICY)


def _admitted(judge: Judge, calibration: Path | None, policy: Path | None, for_gate: bool) -> tuple[Calibration | None, JudgePolicy]:
    """The calibration and the policy; with `--for-gate` a judge that may not gate is refused before it costs anything."""
    from llm_pipeline.evaluation.judge_calibration import may_gate, read_calibration

    known, rules = read_calibration(calibration) if calibration else None, _policy(policy)
    allowed, reason = may_gate(known, rules, judge.id)
    if for_gate and not allowed:
        raise InputError(f"judge {judge.rubric.name} with {judge.endpoint.model} may not gate: {reason}")
    return known, rules


def _refusal(judge: Judge, judged: Sequence[Judged], known: Calibration | None, rules: JudgePolicy, for_gate: bool) -> str:
    from llm_pipeline.evaluation.judge_calibration import run_refusal

    refusal = run_refusal(known, rules, judge.id, judged)
    if for_gate and refusal:
        raise InputError(f"judge {judge.rubric.name} with {judge.endpoint.model}: this run may not gate: {refusal}")
    return refusal


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows with a verdict to `out`, the others to `<out>.unscored.jsonl`, which goes away when there are none."""
    scored, beside = [row for row in rows if row["judged"] is not None], out.with_suffix(".unscored.jsonl")
    write_jsonl(out, scored)
    if len(scored) == len(rows):
        beside.unlink(missing_ok=True)
        return {}
    write_jsonl(beside, [row for row in rows if row["judged"] is None])
    return {"unscored": str(beside)}


def _facts(judge: Judge, judged: Sequence[Judged], usage: Mapping[str, Any], refusal: str, known: Calibration | None) -> dict[str, Any]:
    from llm_pipeline.evaluation.judge_calibration import pass_rates

    flags = [flag for j in judged for flag in j.flags]
    problems = {"failed": sum(j.problem.startswith("request failed") for j in judged)}
    problems["unparsable"] = sum(j.verdict is None for j in judged) - problems["failed"]
    return _finite(
        {"judge": judge.id, "rubric": f"{judge.rubric.name} {judge.rubric.id}", "model": judge.endpoint.model, "cases": len(judged)}
        | problems
        | {name: flags.count(name) for name in sorted(set(flags))}
        | pass_rates(judge.rubric, judged, known if known and known.judge == judge.id else None)
        | {"gate_eligible": not refusal, **({"refusal": refusal} if refusal else {})}
        | {"usage": dict(usage)}
    )


def _finite(value: Any) -> Any:
    """NaN, which is no JSON, becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Progress:
    """A bar on stderr, when a person looks at it."""

    def __init__(self, what: str) -> None:
        console = Console(stderr=True)
        self._bar = Bar(console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
