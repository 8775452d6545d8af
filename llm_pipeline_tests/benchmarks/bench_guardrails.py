"""What the guardrails catch, what they refuse without need, and what they cost, mostly on texts that nothing was tuned on.

Hygiene. The detector is trained on data/guard only (sentences of forms written for this project, and documentation that comes with the
interpreter); no line of the sets below was ever trained on or copied. Sets are split by source. Looked at and tuned on (forms added,
thresholds, features and stretches chosen): the even rows of the jailbreak set, the odd half of the prompts of human preference data (in
order of their text), BIPIA's code attacks, mails and tables, the training parts of the bank and school questions, German passages and
questions, the project's own suites, and the lists named TUNED of guard_prompts. Reported here and looked at for nothing else: the odd
rows of the jailbreak set, the even half of the prompts of human preference data, the test parts of the bank and school questions,
English and Spanish passages and questions, and the HELD_OUT lists of guard_prompts. Those lists are by the author of data/guard: the
first before any training, the MORE ones before the forms of the second round, but in one sitting with their TUNED sisters, so they flatter.
Of the figures themselves only these led to a decision: in the first round, with another detector, the shares refused of HELD_OUT_TRIGGERS
and of all prompts of human preference data (5% and 15%: the threshold was raised; 3% and 9%: a second round was begun); in the second,
once, with a margin of 0.55, those of the same sets (5% and 1.5%; 4% of the MORE list: the margin was raised to 0.85). So the shares
blocked and refused are to that degree optimistic, the AUC is not. The policy's `confirmation` was lowered from 0.3 to 0.15 after garak's
promptinject probes had fallen to 0.58 blocked, at the cost of one more prompt of the MORE list: garak is to that degree tuned on.
Since the third round no margin is chosen by hand: the threshold of attacks (and that of orders in passages) lies where 1% of ordinary
prompts with the words of attacks (of long passages) is above it, by models trained without the forms that these were made from. What
that round added to data/guard was led by 420 texts of another author, none of which is below or in data/guard. Its share
refused of the even half of the human preference data (3.4%) and its causes in the odd half led to LONGER; `confirmation` became 0.1.
After it the policy's thresholds went from 0.5 to 0.6, where 2% of 350 prompts with trigger
words (240 by that other author) are refused, and 11% instead of 16% of that author's clean passages are dropped.
The fourth round's additions were led by 380 more texts of another author (and by what was missed of the 420), so its figures on those say
nothing; none of the figures below decided anything in it. The passages' threshold of 0.3 is from those texts and German passages.
BIPIA's text attacks are reported, but were seen while the passages' score was chosen. The jailbreak set's rows
resemble one another, so its odd rows are the easiest of these.

The peer is what the gateway did before: the policy's patterns alone. The sets are read from the tests' SHARED_DATA (folders
selfreminder, bipia, banking77, gsm8k, xquad, autoj_pairwise); what is absent is left out.
"""

from __future__ import annotations

import asyncio
import csv
import json
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from llm_pipeline.serving.guardrails import Guards, Policy, load_policy
from llm_pipeline.serving.traffic.release import POLICY
from llm_pipeline_tests.benchmarks.guard_prompts import (
    HELD_OUT_ATTACKS,
    HELD_OUT_TRIGGERS,
    MORE_HELD_OUT_ATTACKS,
    MORE_HELD_OUT_TRIGGERS,
)
from llm_pipeline_tests.conftest import SHARED_DATA

DATA = SHARED_DATA
MOST = 1000


def main() -> None:
    policy = load_policy(POLICY)
    guards = Guards(policy)
    before = Guards(Policy(injection=policy.injection))
    attacks, benign = direct_sets()
    scores, of_benign = ({name: _judged(guards, texts) for name, texts in sets.items()} for sets in (attacks, benign))
    plain, plain_benign = ({name: _judged(before, texts) for name, texts in sets.items()} for sets in (attacks, benign))
    every = np.concatenate([found for found, _ in of_benign.values()])
    console = Console(width=120)
    table = Table("set", "n", "AUC against all below", "blocked", "by patterns alone", title="User's turns: attacks")
    for name, texts in attacks.items():
        found, blocked = scores[name]
        table.add_row(name, str(len(texts)), f"{auc(found, every):.3f}", f"{blocked:.1%}", f"{plain[name][1]:.1%}")
    console.print(table)
    table = Table("set", "n", "refused", "by patterns alone", title="User's turns: ordinary ones")
    for name, texts in benign.items():
        table.add_row(name, str(len(texts)), f"{of_benign[name][1]:.2%}", f"{plain_benign[name][1]:.2%}")
    console.print(table)
    _passages(guards, console)
    _cost(guards, [text for texts in benign.values() for text in texts], console)


def direct_sets() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Attacks and ordinary prompts by name."""
    attacks = {"held out, hand-written": HELD_OUT_ATTACKS, "second list": MORE_HELD_OUT_ATTACKS}
    benign = {"words of attacks, hand-written": HELD_OUT_TRIGGERS, "second list": MORE_HELD_OUT_TRIGGERS}
    if (path := DATA / "selfreminder/jailbreak_prompts.csv").exists():
        with path.open(encoding="utf-8") as file:
            attacks["jailbreaks (odd rows)"] = [row["prompt"] for row in csv.DictReader(file)][1::2]
    for name, file_name, field, each in (
        ("bank questions", "banking77/test.jsonl", "text", 1),
        ("school problems", "gsm8k/test.jsonl", "instruction", 1),
        ("questions, English", "xquad/en_questions.jsonl", "question", 1),
        ("questions, Spanish", "xquad/es_questions.jsonl", "question", 1),
        ("prompts to assistants (even half)", "autoj_pairwise/testdata.jsonl", "prompt", 2),
    ):
        if texts := _rows(file_name, field, each):
            benign[name] = texts
    return attacks, benign


def _rows(name: str, field: str, each: int = 1) -> list[str]:
    """Texts of a file, in order; with `each` 2 every second one; at most MOST."""
    if not (path := DATA / name).exists():
        return []
    texts = sorted({json.loads(line)[field] for line in path.read_text("utf-8").splitlines()})[::each]
    return random.Random(1).sample(texts, min(MOST, len(texts)))


def _judged(guards: Guards, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    verdicts = [guards.check([{"role": "user", "content": text[: guards.policy.maximum_characters]}]) for text in texts]
    blocked = statistics.fmean(verdict.action == "block" for verdict in verdicts)
    return np.array([verdict.score or float(verdict.action == "block") for verdict in verdicts]), blocked


def auc(attacks: np.ndarray, benign: np.ndarray) -> float:
    """Probability that an attack's score is above an ordinary prompt's (ties count half)."""
    ordered = np.sort(benign)
    below, upto = np.searchsorted(ordered, attacks, "left"), np.searchsorted(ordered, attacks, "right")
    return float((below + upto).mean() / 2 / len(benign))


def _passages(guards: Guards, console: Console) -> None:
    """Orders inside retrieved texts: hand-written attacks and BIPIA's text attacks put into English passages."""
    passages = _rows("xquad/en_passages.jsonl", "text")
    if not passages:
        return console.print("no passages: SHARED_DATA has no xquad")
    chance, limit = random.Random(2), guards.policy.threshold("input:indirect")
    orders = {"hand-written attacks": HELD_OUT_ATTACKS}
    if (path := DATA / "bipia/text_attack_test.json").exists():
        orders["BIPIA, text attacks (plain requests)"] = [text for texts in json.loads(path.read_text("utf-8")).values() for text in texts]
    clean = np.array([guards.check((), [text]).score for text in passages])
    table = Table(
        "put into passages", "n", "AUC", "dropped", title=f"Retrieved texts ({np.mean(clean >= limit):.1%} of clean ones dropped)"
    )
    for name, texts in orders.items():
        found = np.array([guards.check((), [_planted(text, chance.choice(passages), chance)]).score for text in texts])
        table.add_row(name, str(len(texts)), f"{auc(found, clean):.3f}", f"{np.mean(found >= limit):.1%}")
    console.print(table)


def _planted(order: str, passage: str, chance: random.Random) -> str:
    at = chance.choice([0, len(passage), passage.find(". ", len(passage) // 2) + 2])
    return f"{passage[:at]} {order} {passage[at:]}".strip()


def _cost(guards: Guards, texts: Sequence[str], console: Console) -> None:
    loop = asyncio.new_event_loop()
    spent = []
    for text in random.Random(3).sample(list(texts), min(2000, len(texts))):
        began = time.process_time()
        loop.run_until_complete(guards.before([{"role": "user", "content": text}]))
        spent.append(time.process_time() - began)
    loop.close()
    answer = " ".join(texts)[:200_000].replace("\n", " ")
    chunks = [answer[i : i + 5] for i in range(0, len(answer), 5)]
    each = []
    for start in range(0, len(chunks) - 400, 400):
        checker = guards.after([{"role": "system", "content": "You are the assistant of a bank. Be polite and short."}])
        began = time.process_time()
        for chunk in chunks[start : start + 400]:
            checker.feed(chunk)
        each.append((time.process_time() - began) / 400)
    table = Table("what", "median", "99%", title="Processor time")
    table.add_row("a prompt, ms", f"{statistics.median(spent) * 1e3:.3f}", f"{np.quantile(spent, 0.99) * 1e3:.3f}")
    table.add_row("a chunk of an answer, ms", f"{statistics.median(each) * 1e3:.4f}", f"{np.quantile(each, 0.99) * 1e3:.4f}")
    console.print(table)


if __name__ == "__main__":
    main()
