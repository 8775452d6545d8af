"""Prompts are data (`data/prompts/*.yaml`): the one place that decides what a model sees around a question, and reads its reply.

system | examples as turns | history | grounded or closed template around the last question, then the ask to reason
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.config import build, load_yaml
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.paths import DATA
from llm_pipeline.store import content_hash

FOLDER = DATA / "prompts"
Messages = list[dict[str, str]]
_FIELD = re.compile(r"\{([a-z_]+)\}")
_FIELDS = ("passages", "question", "schema")


@dataclass(frozen=True)
class Example:
    """A question as it should be answered; it becomes two turns before the conversation."""

    question: str
    answer: str
    passages: tuple[str, ...] = ()
    reasoning: str = ""
    """The steps before the answer, in a prompt that asks for them."""


@dataclass(frozen=True)
class Reasoning:
    """Ask for steps before the answer (chain of thought, Wei et al. 2022); the answer is what follows the last `marker`."""

    instruction: str
    marker: str = "Answer:"


@dataclass(frozen=True)
class Output:
    """A reply that is a JSON object of this schema; its `field` is the answer."""

    schema: Mapping[str, Any]
    field: str = "answer"

    def __post_init__(self) -> None:
        import jsonschema  # type: ignore[import-untyped]

        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            raise ConfigError(f"output schema: {error.message}") from error
        known = self.schema.get("properties", {})
        if self.field not in known:
            raise ConfigError(f"output: the field {self.field!r} is not a property of the schema{near(self.field, known)}")

    def read(self, reply: str) -> str | None:
        """The answer in a reply, None when the reply holds no object of the schema."""
        import jsonschema

        try:
            found = json.loads(reply[reply.index("{") : reply.rindex("}") + 1])
            jsonschema.validate(found, self.schema, cls=jsonschema.Draft202012Validator)
        except (ValueError, RecursionError, jsonschema.ValidationError):
            return None
        return str(found[self.field]) if self.field in found else None


@dataclass(frozen=True)
class Prompt:
    """What is put around a conversation.

    Templates have the fields `{passages}`, `{question}` and `{schema}`. They are filled in one pass, so braces inside a question
    or a passage are text, and so are all other braces of a template.
    """

    grounded: str
    """Around the last question when there are passages."""
    system: str | None = None
    closed: str | None = None
    """Around the last question when there are none; without it the question stands alone."""
    examples: tuple[Example, ...] = ()
    reasoning: Reasoning | None = None
    output: Output | None = None

    def __post_init__(self) -> None:
        for name, wanted in (("grounded", ("passages", "question")), ("closed", ("question",)), ("system", ())):
            template = getattr(self, name)
            if template is None:
                continue
            fields = _FIELD.findall(template)
            if missing := [field for field in wanted if field not in fields]:
                raise ConfigError(f"prompt, {name}: the field {{{missing[0]}}} is missing in {template!r}")
            allowed = {*wanted, *(["schema"] if self.output else [])}
            if unknown := [field for field in fields if field not in allowed]:
                raise ConfigError(f"prompt, {name}: unknown field {{{unknown[0]}}}{near(unknown[0], allowed)}")

    @property
    def content(self) -> dict[str, Any]:
        """What decides the id; a part that a prompt does without does not count, so that a new kind of part changes no old id."""
        return {name: value for name, value in asdict(self).items() if value or name in ("grounded", "system")}

    @property
    def id(self) -> str:
        return content_hash(self.content)

    def messages(self, history: Sequence[Mapping[str, str]], passages: Sequence[str] = ()) -> Messages:
        """The chat messages to send: `history` ends with the user's question, which the passages are put in front of."""
        turns = [{"role": m["role"], "content": m["content"]} for m in history]
        turns[-1]["content"] = self._ask(turns[-1]["content"], passages)
        lead = [turns.pop(0)] if turns[0]["role"] == "system" else []
        if self.system and not lead:
            lead = [{"role": "system", "content": self._fill(self.system)}]
        return [*lead, *(turn for example in self.examples for turn in self.turns(example)), *turns]

    def turns(self, example: Example) -> Messages:
        """The question and the reply that it should get, in the form of this prompt."""
        answer = example.answer
        if self.output:
            answer = json.dumps({self.output.field: answer}, ensure_ascii=False)
        if self.reasoning:
            answer = f"{example.reasoning}\n{self.reasoning.marker} {answer}".strip()
        asked = self._ask(example.question, example.passages)
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    def answer_of(self, reply: str) -> str | None:
        """The answer in a model's reply: all of it, or what the prompt asked to mark; None when that is not there."""
        if self.reasoning:
            _, marker, reply = reply.rpartition(self.reasoning.marker)
            if not marker:
                return None
        return self.output.read(reply) if self.output else reply.strip()

    def _ask(self, question: str, passages: Sequence[str]) -> str:
        template = self.grounded if passages else self.closed
        asked = self._fill(template, passages="\n".join(passages), question=question) if template else question
        return f"{asked}\n{self.reasoning.instruction}" if self.reasoning else asked

    def _fill(self, template: str, **values: str) -> str:
        if self.output:
            values["schema"] = json.dumps(self.output.schema, ensure_ascii=False)
        return _FIELD.sub(lambda found: values.get(found[1], found[0]), template)


@dataclass(frozen=True)
class PromptTest:
    """One example of what a prompt file promises about its messages, or (with `reply`) about how a reply is read."""

    question: str
    passages: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    """Texts that stand in the messages."""
    lacks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    max_tokens: int | None = None
    """Bound of the whole prompt in tokens of the model that the test is run with."""
    reply: str | None = None
    answer: str | None = None
    """The answer to be found in `reply`; None: that none is."""


@dataclass(frozen=True)
class _Notes:
    description: str = ""
    tests: tuple[PromptTest, ...] = ()


@dataclass(frozen=True)
class PromptFile:
    """A file of `data/prompts`: a prompt, what it is for, and its tests (which are no part of the prompt's id)."""

    name: str
    prompt: Prompt
    description: str = ""
    tests: tuple[PromptTest, ...] = ()


def load_prompt(path: Path) -> Prompt:
    return load_file(path).prompt


def load_file(path: Path) -> PromptFile:
    raw = load_yaml(path)
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: received {type(raw).__name__}, expected the keys of a prompt")
    notes = build(_Notes, {key: raw[key] for key in ("description", "tests") if key in raw}, str(path))
    try:
        prompt = build(Prompt, {key: value for key, value in raw.items() if key not in ("description", "tests")}, str(path))
    except ConfigError as error:
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from None
    return PromptFile(path.stem, prompt, notes.description, notes.tests)


def find_file(name: str) -> PromptFile:
    """The prompt file at a path, or the shipped one of this name."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_file(path)
    known = {other.stem: other for other in FOLDER.glob("*.yaml")}
    if name not in known:
        raise ConfigError(f"prompt {name!r}: expected a file or a name of {FOLDER}{near(name, known)}")
    return load_file(known[name])
