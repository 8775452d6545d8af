"""Agreement with people on public pairwise preferences: judges that only count and the offline stand-in, by the rule that lets one gate.

None of these is a language model, and none may gate; the table is the bar that a real judge has to clear. `JUDGE_URL`, `JUDGE_MODEL` and
`JUDGE_KEY` (a key) add one. The second table is how wide kappa's 90% interval is by number of labels, drawn from the same labels.

`python -m llm_pipeline_tests.benchmarks.bench_judge`
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from llm_pipeline.evaluation.agreement import agreement
from llm_pipeline.evaluation.judge import Judge
from llm_pipeline.evaluation.judge_baseline import MODEL, serve
from llm_pipeline.evaluation.judge_calibration import Calibration, JudgePolicy, calibrate, may_gate
from llm_pipeline.evaluation.judge_client import Endpoint
from llm_pipeline.evaluation.judge_labels import Labelled, baseline_verdicts
from llm_pipeline.evaluation.judge_rubric import CHOICES, load_rubric
from llm_pipeline_tests.conftest import SHARED_DATA
from llm_pipeline_tests.evaluation.test_judge_baseline import human_preferences

SIZES, DRAWS = (50, 100, 200, 400, 800), 40
RUBRIC = load_rubric("preference")


def main() -> None:
    path = SHARED_DATA / "autoj_pairwise" / "testdata.jsonl"
    if not path.exists():
        raise SystemExit(f"the public data set autoj_pairwise is not in {path.parent}")
    labels, console = human_preferences(path), Console()
    console.print(agreement_table(labels))
    console.print(width_table(labels))


def agreement_table(labels: list[Labelled]) -> Table:
    table = Table(
        "judge", "agreement", "kappa [90%]", "same in both orders", "may gate", title=f"{len(labels)} human preferences, 3 choices"
    )
    truth = [labelled.label for labelled in labels]
    for name, guesses in baseline_verdicts(RUBRIC, labels).items():
        found = agreement(truth, guesses, CHOICES)
        table.add_row(f"counts only: {name}", f"{found.raw:.1%}", str(found.kappa), "-", "-")
    with serve() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        _add(table, f"{MODEL} (no language model)", calibrate(Judge(RUBRIC, Endpoint(url, MODEL)), labels))
        server.shutdown()
    if os.environ.get("JUDGE_URL"):
        key = "JUDGE_KEY" if os.environ.get("JUDGE_KEY") else ""
        endpoint = Endpoint(os.environ["JUDGE_URL"], os.environ.get("JUDGE_MODEL", "default"), key)
        _add(table, endpoint.model, calibrate(Judge(RUBRIC, endpoint, Path("judge_replies.sqlite")), labels))
    return table


def _add(table: Table, name: str, found: Calibration) -> None:
    allowed, reason = may_gate(found, JudgePolicy())
    table.add_row(name, f"{found.raw:.1%}", str(found.kappa), f"{found.consistency:.1%}", "yes" if allowed else f"no: {reason}")


def width_table(labels: list[Labelled]) -> Table:
    """The length judge's kappa on random subsets: half the mean width, and how often the interval held the kappa of all labels."""
    table = Table("labels", "half width of kappa's interval", "held the kappa of all labels", title=f"{DRAWS} subsets each, judge: longer")
    truth, guesses = [labelled.label for labelled in labels], baseline_verdicts(RUBRIC, labels)["longer"]
    whole, r = agreement(truth, guesses, CHOICES).kappa.mean, random.Random(0)
    for size in SIZES:
        drawn = [r.sample(range(len(labels)), size) for _ in range(DRAWS)]
        found = [agreement([truth[i] for i in chosen], [guesses[i] for i in chosen], CHOICES).kappa for chosen in drawn]
        width = mean((k.high - k.low) / 2 for k in found)
        table.add_row(str(size), f"±{width:.3f}", f"{mean(k.low <= whole <= k.high for k in found):.0%}")
    return table


if __name__ == "__main__":
    main()
