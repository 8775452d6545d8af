"""Questions as they also come in: mistyped, worded otherwise, their context in another order. Same row, same variant."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from llm_pipeline.errors import ConfigError, near
from llm_pipeline.store import content_hash

Row = Mapping[str, Any]
_WORD = re.compile(r"[A-Za-z]{4,}")
_FRAMES = (
    "Could you tell me: {question}",
    "I have a question. {question}",
    "{question} Please answer briefly.",
    "Hello, a quick one: {question}",
    "Sorry to bother you, but {question}",
)
_WORDINGS = (
    (re.compile(r"^What is (.*)\?$"), "Can you say what {} is?"),
    (re.compile(r"^What is (.*)\?$"), "Tell me {}."),
    (re.compile(r"^Who (.*)\?$"), "Which person {}?"),
    (re.compile(r"^Where (?:is|are) (.*)\?$"), "In what place can one find {}?"),
    (re.compile(r"^How many (.*)\?$"), "What number of {}?"),
    (re.compile(r"^Which (.*)\?$"), "Please name which {}."),
)


def variants(row: Row, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The row and its variants, as rows of one `pair`; a perturbation that changes nothing is left out."""
    original = dict(row) | {"pair": row["id"], "variant": "original"}
    found = [original]
    for name in names:
        if name not in PERTURBATIONS:
            raise ConfigError(f"perturb: {name!r}{near(name, PERTURBATIONS)}")
        changed = PERTURBATIONS[name](row, random.Random(content_hash(name, row["id"], row["question"])))
        if any(changed[column] != row.get(column) for column in changed):
            found.append(original | changed | {"id": f"{row['id']}#{name}", "variant": name})
    return found


def typo(row: Row, r: random.Random) -> dict[str, Any]:
    """In one long word of eight, at least one: two letters swapped, one doubled or one dropped; never in a word of the answer."""
    question = str(row["question"])
    answer = set(re.findall(r"\w+", str(row.get("answer", "")).casefold()))
    words = [match for match in _WORD.finditer(question) if match[0].casefold() not in answer]
    chosen = r.sample(words, min(len(words), 1 + len(words) // 8))
    for match in sorted(chosen, key=lambda match: match.start(), reverse=True):
        question = question[: match.start()] + _mistyped(match[0], r) + question[match.end() :]
    return {"question": question}


def _mistyped(word: str, r: random.Random) -> str:
    at = r.randrange(1, len(word) - 1)
    return r.choice((word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at] + word[at:], word[:at] + word[at + 1 :]))


def paraphrase(row: Row, r: random.Random) -> dict[str, Any]:
    """One of the row's own `paraphrases`, else another wording of the question or a polite frame around it."""
    question = str(row["question"])
    if row.get("paraphrases"):
        return {"question": r.choice(row["paraphrases"])}
    reworded = [wording.format(found[1]) for pattern, wording in _WORDINGS if (found := pattern.match(question))]
    return {"question": r.choice([*reworded, *(frame.format(question=question) for frame in _FRAMES)])}


def order(row: Row, r: random.Random) -> dict[str, Any]:
    """The sentences of each context passage and the passages, and the choices, in another order."""
    changed: dict[str, Any] = {}
    if row.get("context"):
        passages = [" ".join(r.sample(s := re.split(r"(?<=[.!?])\s+", passage), len(s))) for passage in row["context"]]
        changed["context"] = r.sample(passages, len(passages))
    if row.get("choices"):
        changed["choices"] = r.sample(list(row["choices"]), len(row["choices"]))
    return changed


PERTURBATIONS: Mapping[str, Callable[[Row, random.Random], dict[str, Any]]] = {"typo": typo, "paraphrase": paraphrase, "order": order}
