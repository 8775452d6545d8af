"""`llm-pipeline review ...`: what people should look at, out to them and back, and what their labels are used for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_pipeline.errors import InputError
from llm_pipeline.shell import HomeOption, JsonOption, open_home, show
from llm_pipeline.store import write_jsonl

review_app = typer.Typer(no_args_is_help=True, help="Human review: a queue of doubtful answers, and what their labels are good for.")
QueueFile = Annotated[Path, typer.Argument(help="What `review queue` wrote.", metavar="QUEUE.jsonl")]
LabelFile = Annotated[Path, typer.Argument(help="What `review import` wrote.", metavar="LABELS.jsonl")]
OutOption = Annotated[Path, typer.Option(help="JSONL file to write.")]
MlflowOption = Annotated[bool, typer.Option("--mlflow", help="The review queue of the home folder's MLflow instead of a file.")]
NameOption = Annotated[str, typer.Option(help="Name of the queue in MLflow.")]


@review_app.command()
def queue(
    rows: Annotated[list[Path], typer.Argument(help="Scored rows of one model, from `evaluate`, `judge run` or both.", metavar="ROWS...")],
    out: OutOption,
    n: Annotated[int, typer.Option("--n", help="Most items.")] = 50,
    against: Annotated[list[Path] | None, typer.Option(help="Rows of a second model: the items are pairs of answers.")] = None,
    rubric: Annotated[str, typer.Option(help="Ask for a score on this rubric's scale instead of pass or fail.")] = "",
    metric: Annotated[list[str] | None, typer.Option(help="Metrics to compare; default: those whose scores go together.")] = None,
    audit: Annotated[float, typer.Option(help="Least share of the items that is a random sample; 0: none.")] = 0.2,
    by: Annotated[list[str] | None, typer.Option(help="Slices that make up the strata of the sample.")] = None,
    spread: Annotated[float, typer.Option(help="Difference of two scores from which they contradict each other.")] = 0.5,
    width: Annotated[float, typer.Option(help="Width of a slice's interval from which its answers are candidates.")] = 0.2,
    seed: int = 0,
    scrub: Annotated[bool, typer.Option(help="Replace personal data in the texts.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Choose what people should look at; every item says why.

    Example: llm-pipeline review queue report/rows.jsonl judged.jsonl --out queue.jsonl --n 50
    """
    from llm_pipeline.evaluation.judge_cases import read_cases
    from llm_pipeline.evaluation.judge_rubric import load_rubric
    from llm_pipeline.evaluation.review_queue import build_queue, scrubbed
    from llm_pipeline.evaluation.review_reasons import QueueSettings

    settings = QueueSettings(n, audit, spread, width, tuple(metric or ()), tuple(by or ()), seed)
    scale = load_rubric(rubric).scale if rubric else None
    cases = read_cases(*rows)
    items, replaced = build_queue(cases, read_cases(*against) if against else None, settings, scale), 0
    if scrub:
        items, replaced = scrubbed(items)
    write_jsonl(out, [item.json() for item in items])
    kinds = Counter(kind for item in items for kind in {reason.kind for reason in item.why})
    show({"answers": len(cases), "items": len(items), "why": dict(sorted(kinds.items())), "replaced": replaced, "out": str(out)}, as_json)


@review_app.command()
def export(
    source: QueueFile,
    out: Annotated[Path | None, typer.Option(help="Sheet for one reviewer: JSONL with a column label to fill in.")] = None,
    reviewer: Annotated[str, typer.Option(help="Who will fill in the sheet.")] = "",
    mlflow: MlflowOption = False,
    name: NameOption = "review",
    user: Annotated[list[str] | None, typer.Option(help="Reviewers of the MLflow queue.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hand the items to reviewers, without scores and reasons: as a sheet, or as a review queue in MLflow (see `llm-pipeline mlflow`).

    Example: llm-pipeline review export queue.jsonl --out alice.jsonl --reviewer alice / llm-pipeline review export queue.jsonl --mlflow
    """
    from llm_pipeline.evaluation.review_labels import sheet
    from llm_pipeline.evaluation.review_mlflow import export_queue
    from llm_pipeline.evaluation.review_queue import read_queue

    items = list(read_queue(source).values())
    if mlflow:
        show(export_queue(open_home(home).mlflow_uri, items, name, user or ()), as_json)
    elif out and reviewer:
        write_jsonl(out, sheet(items, reviewer))
        show({"items": len(items), "reviewer": reviewer, "out": str(out)}, as_json)
    else:
        raise typer.BadParameter("expected --out with --reviewer, or --mlflow")


@review_app.command("import")
def import_labels(
    source: QueueFile,
    out: OutOption,
    sheets: Annotated[list[Path] | None, typer.Argument(help="Sheets that reviewers filled in.", metavar="SHEET.jsonl...")] = None,
    reviewer: Annotated[str, typer.Option(help="Who labelled rows without the column reviewer.")] = "",
    mlflow: MlflowOption = False,
    name: NameOption = "review",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check what came back and make one label of several opinions, by majority; conflicts go to a file beside, agreement is measured.

    Example: llm-pipeline review import queue.jsonl alice.jsonl bob.jsonl --out labels.jsonl
    """
    from llm_pipeline.evaluation.review_labels import between_reviewers, check_opinions, label_rows, read_opinions, review
    from llm_pipeline.evaluation.review_mlflow import import_opinions
    from llm_pipeline.evaluation.review_queue import read_queue

    items = read_queue(source)
    if not mlflow and not sheets:
        raise typer.BadParameter("expected filled-in sheets, or --mlflow")
    opinions = read_opinions(sheets or (), items, reviewer)
    if mlflow:
        opinions += check_opinions(import_opinions(open_home(home).mlflow_uri, items, name), items)
    if not opinions:
        raise InputError("no label yet: nothing to import")
    done = review(items, opinions)
    conflicts, beside = done.conflicts, out.with_suffix(".conflicts.jsonl")
    rows = label_rows(done)
    write_jsonl(out, rows)
    write_jsonl(beside, conflicts) if conflicts else beside.unlink(missing_ok=True)
    facts = {"items": len(items), "labelled": len(done.votes), "labels": len(rows), "conflicts": len(conflicts)}
    unsettled = {"unsettled": sum(conflict["label"] is None for conflict in conflicts)}
    files = {"out": str(out)} | ({"conflict_file": str(beside)} if conflicts else {})
    show(facts | unsettled | {"reviewers": between_reviewers(done)} | files, as_json)


@review_app.command("to-suite")
def to_suite(labels: LabelFile, out: OutOption, as_json: JsonOption = False) -> None:
    """Suite rows {id, question, answer} from corrections, and from accepted answers that had no reference.

    Example: llm-pipeline review to-suite labels.jsonl --out data/suites/reviewed.jsonl
    """
    from llm_pipeline.evaluation.review_use import read_reviewed, suite_rows

    rows, skipped = suite_rows(read_reviewed(labels))
    write_jsonl(out, rows)
    show({"rows": len(rows), "skipped": skipped, "out": str(out)}, as_json)


@review_app.command("to-preferences")
def to_preferences(
    labels: LabelFile,
    out: OutOption,
    form: Annotated[Literal["dpo", "kto"], typer.Option(help="dpo: prompt, chosen, rejected; kto: prompt, completion, label.")] = "dpo",
    as_json: JsonOption = False,
) -> None:
    """Preference data to train on, conversational as TRL takes it.

    Example: llm-pipeline review to-preferences labels.jsonl --out preferences.jsonl
    """
    from llm_pipeline.evaluation.review_use import preference_rows, read_reviewed

    rows, skipped = preference_rows(read_reviewed(labels), form)
    write_jsonl(out, rows)
    show({"rows": len(rows), "skipped": skipped, "out": str(out)}, as_json)
