"""The unit tests that a prompt file carries: what its messages must hold, and how replies are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from llm_pipeline.errors import InputError
from llm_pipeline.prompts import Messages, PromptFile, PromptTest

Count = Callable[[Messages], int]


def failures(file: PromptFile, count: Count | None = None) -> list[str]:
    """What does not hold, one line each; without `count` the bounds in tokens are not looked at."""
    return [f"{file.name}, test {number}: {line}" for number, test in enumerate(file.tests, 1) for line in _failures(file, test, count)]


def _failures(file: PromptFile, test: PromptTest, count: Count | None) -> Iterator[str]:
    messages = file.prompt.messages([{"role": "user", "content": test.question}], test.passages)
    text = "\n".join(message["content"] for message in messages)
    yield from (f"expected {wanted!r} in {text!r}" for wanted in test.contains if wanted not in text)
    yield from (f"expected no {banned!r} in {text!r}" for banned in test.lacks if banned in text)
    roles = tuple(message["role"] for message in messages)
    if test.roles and roles != test.roles:
        yield f"received the roles {', '.join(roles)}, expected {', '.join(test.roles)}"
    if test.max_tokens is not None and count and (tokens := count(messages)) > test.max_tokens:
        yield f"received {tokens} tokens, expected at most {test.max_tokens}"
    if test.reply is not None and (found := file.prompt.answer_of(test.reply)) != test.answer:
        yield f"read {found!r} in the reply {test.reply!r}, expected {test.answer!r}"


def token_count(model: Path) -> Count:
    """Length of a prompt in the tokens of a model, its chat template included."""
    from transformers import AutoTokenizer

    if not (model / "tokenizer_config.json").is_file():
        raise InputError(f"{model}: not a model folder (it has no tokenizer_config.json)")
    tokenizer = AutoTokenizer.from_pretrained(str(model))

    def count(messages: Messages) -> int:
        return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))

    return count
