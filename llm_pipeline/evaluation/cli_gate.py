"""The gate and the comparison on plain files: `llm-pipeline gate|compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.errors import ConfigError
from llm_pipeline.evaluation.gate_policy import GatePolicy, matching
from llm_pipeline.shell import JsonOption

CODES = {"promote": 0, "reject": 3, "insufficient": 4}
ChampionArgument = Annotated[
    Path, typer.Argument(exists=True, metavar="CHAMPION", help="JSONL rows id, metric, score (and suite, mode, cluster), also .gz.")
]
ChallengerArgument = Annotated[Path, typer.Argument(exists=True, metavar="CHALLENGER", help="The same examples, scored for the new model.")]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        exists=True,
        dir_okay=False,
        help="YAML: primary, margins: {METRIC: 0.02}, margin (of other guards), lower_is_better, report_only, alpha, alpha_reject,"
        " minimum_pairs; the options below win.",
    ),
]
PrimaryOption = Annotated[str | None, typer.Option("--primary", help="Metric that must get better; without it a gain on any counts.")]
MarginOption = Annotated[list[str] | None, typer.Option("--margin", help="METRIC=0.02: how much that guard may lose.", metavar="METRIC=X")]
LowerOption = Annotated[list[str] | None, typer.Option("--lower-is-better", help="A metric of which less is better.", metavar="METRIC")]
SilentOption = Annotated[list[str] | None, typer.Option("--report-only", help="A metric without a say.", metavar="METRIC")]
ExitOption = Annotated[bool, typer.Option("--exit-code", help="Exit 0 for promote, 3 for reject, 4 for insufficient.")]


def register(app: typer.Typer) -> None:
    app.command()(gate)
    app.command()(compare)


def gate(
    champion: ChampionArgument,
    challenger: ChallengerArgument,
    policy: PolicyOption = None,
    primary: PrimaryOption = None,
    margin: MarginOption = None,
    lower_is_better: LowerOption = None,
    report_only: SilentOption = None,
    exit_code: ExitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Promote, reject or insufficient: may the challenger replace the champion, by paired tests on scored rows; no model is needed.

    The primary metric must surely get better, every other one must surely not lose more than its margin (default 0.02).

    Examples: llm-pipeline gate old.jsonl new.jsonl --primary em --margin rouge_l=0.03 --json / llm-pipeline gate old.jsonl.gz new.jsonl.gz
    --policy gate.yaml --exit-code && deploy
    """
    from llm_pipeline.evaluation.gate import judge
    from llm_pipeline.evaluation.scores import read_rows, scores_of

    before, after = read_rows(champion), read_rows(challenger)
    chosen = _settings(champion, before, policy, primary, margin, lower_is_better, report_only)
    decision = judge(scores_of(before), scores_of(after), chosen)
    typer.echo(json.dumps(decision.json(), allow_nan=False) if as_json else _words(decision.json()))
    if exit_code:
        raise typer.Exit(CODES[decision.verdict])


def compare(
    champion: Annotated[Path, typer.Argument(exists=True, metavar="A", help="Folder that `evaluate` made, or a file of rows.")],
    challenger: Annotated[Path, typer.Argument(exists=True, metavar="B", help="The same for the other model.")],
    out: Annotated[Path, typer.Option(help="Folder for comparison.json and comparison.html.", file_okay=False)],
    policy: PolicyOption = None,
    primary: PrimaryOption = None,
    margin: MarginOption = None,
    lower_is_better: LowerOption = None,
    report_only: SilentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Two models on the same examples: paired differences with intervals, slices, examples won and lost, and the gate's verdict.

    Example: llm-pipeline compare reports/base reports/tuned --out reports/tuned-over-base
    """
    from llm_pipeline.evaluation.scores import read_rows
    from llm_pipeline.evaluation.versus import write_comparison

    before, after = read_rows(champion), read_rows(challenger)
    chosen = _settings(champion, before, policy, primary, margin, lower_is_better, report_only)
    result = write_comparison(out, before, after, chosen, names=(str(champion), str(challenger)))
    typer.echo(json.dumps(result, allow_nan=False) if as_json else _words(result["decision"]) + f"\n{out / 'comparison.html'}")


def _settings(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    policy: Path | None,
    primary: str | None,
    margins: Sequence[str] | None,
    lower: Sequence[str] | None,
    silent: Sequence[str] | None,
) -> GatePolicy:
    """The policy of a file with what the rows declare and the options on top; an option that names no metric is bad usage."""
    from llm_pipeline.config import load
    from llm_pipeline.evaluation.scores import lower_is_better, metric_name

    base = load(GatePolicy, policy) if policy else GatePolicy()
    given = dict(_margin(text) for text in margins or ())
    names = {metric_name(row) for row in rows}
    try:
        for name in (*given, *(lower or ()), *(silent or ()), *([primary] if primary else ())):
            matching(name, names)
        return replace(
            base,
            primary=primary or base.primary,
            margins={**base.margins, **given},
            lower_is_better=(*base.lower_is_better, *lower_is_better(path, rows), *(lower or ())),
            report_only=(*base.report_only, *(silent or ())),
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def _margin(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        return name, float(value if name else "")
    except ValueError:
        raise typer.BadParameter(f"--margin {text!r}: expected METRIC=NUMBER, such as em=0.02") from None


def _words(decision: dict[str, Any]) -> str:
    lines = [decision["verdict"], *(f"  {reason}" for reason in decision["reasons"])]
    lines += [f"  note: {note}" for note in decision["notes"]]
    for name, m in decision["metrics"].items():
        low, high = ("?" if bound is None else f"{bound:+.4g}" for bound in m["interval"])
        detectable = m["minimum_detectable_effect"]
        lines.append(
            f"{name}  {m['role']}  n {m['n']}  {m['champion']:.4g} -> {m['challenger']:.4g}  {m['difference']:+.4g} [{low}, {high}]"
            f"  p {m['p_value']:.3g}  detectable {detectable['0.8']:.3g} (power .8), {detectable['0.9']:.3g} (.9)  {m['verdict']}"
        )
    return "\n".join(lines)
