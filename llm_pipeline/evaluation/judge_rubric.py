"""What a judge is asked to judge by: one YAML file, its version the hash of its content, and the verdict read from a reply.

A verdict counts only when the reply says exactly one thing in the form that was asked for; anything else is recorded as unparsable.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import DATA
from llm_pipeline.store import content_hash

RUBRICS = DATA / "judges"
CHOICES = ("A", "B", "tie")
Verdict = int | str
"""A score of the rubric's scale, or `A`, `B`, `tie`."""


@dataclass(frozen=True)
class Scale:
    """Whole numbers from `low` to `high`; `meaning` says what some of them mean, `passing` is the lowest that passes."""

    low: int = 1
    high: int = 5
    passing: int = 4
    meaning: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.low < self.passing <= self.high or not self.meaning.keys() <= set(self.values):
            raise ConfigError(f"scale: received {self}, expected low < passing <= high and a meaning for numbers of the scale only")

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))

    def share(self, score: int) -> float:
        """The score as a share of the scale: 0 is the worst, 1 the best."""
        return (score - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Example:
    """A judged case that stands before the real one."""

    question: str
    verdict: int | Literal["A", "B", "tie"]
    reason: str
    answer: str = ""
    answer_b: str = ""
    """The second answer of a pairwise example."""
    reference: str = ""


@dataclass(frozen=True)
class Rubric:
    """A file of `data/judges/`."""

    name: str
    kind: Literal["pointwise", "pairwise"]
    instructions: str
    criteria: dict[str, str]
    """Name -> what is asked."""
    scale: Scale = field(default_factory=Scale)
    """Of a pointwise rubric."""
    output: Literal["json", "line"] = "json"
    """`json`: an object with `reason` and `score` (pointwise) or `winner` (pairwise). `line`: free text, then `VERDICT: <verdict>` as the
    last line, for models that cannot keep to JSON."""
    reference: Literal["required", "optional", "hidden"] = "optional"
    """Whether the judge is shown the reference answer."""
    limits: dict[Literal["question", "answer", "reference"], int] = field(default_factory=dict)
    """Most characters shown; of what is longer, the middle is left out, and the judge is told."""
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", self.name) or not self.criteria:
            raise ConfigError(f"rubric {self.name!r}: expected a name of a-z, 0-9 and _, and at least one criterion")
        if short := [name for name, most in self.limits.items() if most < 100]:
            raise ConfigError(f"rubric {self.name}: limit of {short[0]}: received {self.limits[short[0]]}, expected 100 or more")
        for example in self.examples:
            if example.verdict not in self.verdicts:
                raise ConfigError(f"rubric {self.name}: example verdict {example.verdict!r}, expected one of {list(self.verdicts)}")

    @property
    def id(self) -> str:
        return content_hash(asdict(self))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.scale.values if self.kind == "pointwise" else CHOICES

    @property
    def key(self) -> str:
        """What the verdict is called in the reply."""
        return "score" if self.kind == "pointwise" else "winner"

    @property
    def metric(self) -> str:
        return f"judge_{self.name}"

    def limit(self, part: Literal["question", "answer", "reference"]) -> int:
        return self.limits.get(part, 8_000)

    def schema(self) -> dict[str, Any]:
        """JSON schema of the reply."""
        return {
            "type": "object",
            "properties": {"reason": {"type": "string"}, self.key: {"enum": list(self.verdicts)}},
            "required": ["reason", self.key],
            "additionalProperties": False,
        }


def load_rubric(name: str | Path) -> Rubric:
    """A rubric by its file, or by its name in `data/judges/`."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RUBRICS / f"{name}.yaml"
    return load(Rubric, path)


@dataclass(frozen=True)
class Parsed:
    """A verdict with its reason, or why there is none."""

    verdict: Verdict | None
    reason: str = ""
    problem: str = ""


_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_LINE = re.compile(r"\A\W{0,3}VERDICT\W{0,3}: *[<*_`]{0,3}(-?\w+)[>*_`.]{0,3}\Z")
_MOST_OBJECTS = 50


def parse_verdict(rubric: Rubric, reply: str, finish_reason: str = "stop") -> Parsed:
    """The verdict at the end of a reply, in either form whichever was asked for; a reply that was cut off or says two things has none."""
    if finish_reason == "length":
        return Parsed(None, problem="cut off at the token limit")
    text = _THINKING.sub("", reply).strip().removesuffix("```").rstrip()
    if not text:
        return Parsed(None, problem="empty reply")
    lines = [(match[1], line) for line in text.splitlines() if (match := _LINE.match(line.strip()))]
    objects = [(found, end) for found, end in _objects(text) if rubric.key in found or "" in found]
    said = {json.dumps(found.get(rubric.key), default=str) for found, _ in objects} | {json.dumps(_number(word)) for word, _ in lines}
    if len(said) > 1:
        return Parsed(None, problem=f"several verdicts: {', '.join(sorted(said))}"[:200])
    if objects and objects[-1][1] == len(text):
        found = objects[-1][0]
        return Parsed(None, problem=found[""]) if "" in found else _checked(rubric, found[rubric.key], str(found.get("reason", "")))
    if lines and text.splitlines()[-1] == lines[-1][1]:
        return _checked(rubric, _number(lines[-1][0]), text.removesuffix(lines[-1][1]).strip())
    return Parsed(None, problem="ends neither in a JSON object with the verdict nor in a line VERDICT")


def _objects(text: str) -> list[tuple[dict[str, Any], int]]:
    """The outermost JSON objects of a text, each with where it ends; one with a repeated key counts as `{"": what is wrong}`."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {"": "repeated key"} if len({key for key, _ in items}) < len(items) else dict(items)

    decoder, found, at = json.JSONDecoder(object_pairs_hook=pairs), [], text.find("{")
    for _ in range(_MOST_OBJECTS):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
            found.append((value, end))
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return found


def _number(text: str) -> Verdict:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text


def _checked(rubric: Rubric, value: Any, reason: str) -> Parsed:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and rubric.kind == "pairwise":
        value = {choice.casefold(): choice for choice in CHOICES}.get(value.strip().casefold(), value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value not in rubric.verdicts:
        return Parsed(None, reason, f"received the verdict {value!r}, expected one of {', '.join(map(str, rubric.verdicts))}"[:200])
    return Parsed(value, reason)
