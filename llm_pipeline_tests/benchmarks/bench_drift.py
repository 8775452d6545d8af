"""Alarm rate of the drift rule on simulated customers: calm days must not alarm, and how much news a window needs to alarm."""

from __future__ import annotations

import random

from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.curation.support.customers import customer_messages
from llm_pipeline.monitoring.drift import DriftRule, Past, Reference, drift_windows
from llm_pipeline.retrieval.embedding import Embedder

WINDOWS, SHARES = 20, (0.0, 0.05, 0.1, 0.2, 0.5)


def main() -> None:
    config, rule, embedder = SupportConfig(), DriftRule(), Embedder()
    calm = [m.question for day in config.all_days[:7] for m in customer_messages(config, day, 900)]
    news = [m.question for day in config.all_days[7:] for m in customer_messages(config, day, 400)]
    random.Random(0).shuffle(calm)
    random.Random(1).shuffle(news)
    reference, past_texts, fresh = calm[:1500], calm[1500:4500], calm[4500:]
    known = Reference.of(embedder.embed(reference), rule)
    rows = [{**vars(w), "alarm": False} for w in drift_windows(past_texts, known, embedder.embed, rule=rule)]
    past = Past.of(rows, rule)
    table = Table("share of shifted traffic", "windows", "alarms", title=f"windows of {rule.window}, {len(rows)} past ones")
    for share in SHARES:
        alarms = 0
        for i in range(WINDOWS):
            r = random.Random(f"{share}/{i}")
            changed = round(share * rule.window)
            texts = r.sample(fresh, rule.window - changed) + r.sample(news, changed)
            alarms += drift_windows(texts, known, embedder.embed, past, rule)[0].alarm
        table.add_row(f"{share:.0%}", str(WINDOWS), str(alarms))
    Console().print(table)


if __name__ == "__main__":
    main()
