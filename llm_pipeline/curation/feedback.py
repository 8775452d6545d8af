"""What people said about logged answers, as pairs: a correction beside what it corrects, a liked answer beside a disliked one."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from llm_pipeline.curation.pairs import question_key
from llm_pipeline.curation.pii import load_policy, scan_texts
from llm_pipeline.store import content_hash

Row = dict[str, Any]


def pair_row(prompt: Sequence[Mapping[str, str]], chosen: str, rejected: str, kind: str, source: str, cluster: str) -> Row:
    """A preference as it is stored; the id is a hash of what was asked and answered."""
    messages = [dict(message) for message in prompt]
    return {
        "id": content_hash(messages, chosen, rejected), "prompt": messages, "chosen": chosen, "rejected": rejected, "kind": kind,
        "source": source, "cluster_id": cluster,
    }  # fmt: skip


def feedback_pairs(interactions: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """Pairs out of rows of the table `interactions`, and how many rows with feedback were not used, by reason.

    A row may have `correction` (what should have been said) and `rating` (above 0: liked, below: disliked). Rows with personal data are
    left out.
    """
    unused: Counter[str] = Counter()
    found: list[Row] = []
    rated: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(interactions, key=lambda row: str(row["id"])):
        correction, rating = (row.get("correction") or "").strip(), row.get("rating") or 0
        if not correction and not rating:
            continue
        if scan_texts([row["messages"], row["answer"], correction], load_policy()):
            unused["personal_data"] += 1
        elif not correction:
            rated[question_key(row["question"])].append(row)
        elif correction == row["answer"].strip():
            unused["correction_is_the_answer"] += 1
        else:
            found.append(_pair(row, correction, row["answer"]))
    for rows in rated.values():
        liked, disliked = ([row for row in rows if (row["rating"] > 0) is good] for good in (True, False))
        pairs = [(good, bad) for good in liked for bad in disliked if good["answer"].strip() != bad["answer"].strip()]
        found += [_pair(bad, good["answer"], bad["answer"]) for good, bad in pairs[: len(disliked)]]
        unused["no_counterpart"] += 0 if pairs else len(rows)
    return list({row["id"]: row for row in found}.values()), {key: n for key, n in sorted(unused.items()) if n}


def _pair(row: Row, chosen: str, rejected: str) -> Row:
    cluster = content_hash("interaction", question_key(row["question"]))
    return pair_row(json.loads(row["messages"]), chosen, rejected, "feedback", str(row["id"]), cluster)
