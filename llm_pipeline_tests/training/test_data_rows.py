"""A row that cannot be trained on is named by file, number, what it has and what the method expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llm_pipeline.errors import InputError
from llm_pipeline.store import write_jsonl
from llm_pipeline.training.data import IGNORED, Collator, columns, encode_texts
from llm_pipeline.training.recipe import Method
from llm_pipeline.training.rows import COLUMNS, read_rows
from llm_pipeline_tests.training.methods import ROWS

GOOD = {method: json.dumps(rows[0]) for method, rows in ROWS.items()}


@pytest.mark.parametrize("method", COLUMNS)
def test_rows_of_every_method_are_read(method: Method, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS[method])
    assert len(read_rows(path, method)) == len(ROWS[method])


def test_strings_and_messages_are_the_same_preference(tmp_path: Path) -> None:
    said = {"prompt": "Fee?", "chosen": "$5", "rejected": "$9"}
    talk = {
        "prompt": [{"role": "user", "content": "Fee?"}],
        "chosen": [{"role": "assistant", "content": "$5"}],
        "rejected": [{"role": "assistant", "content": "$9"}],
    }
    write_jsonl(tmp_path / "rows.jsonl", [said, talk])
    first, second = read_rows(tmp_path / "rows.jsonl", "dpo")
    assert first == second == talk


@pytest.mark.parametrize(
    ("method", "line", "message"),
    [
        ("sft", '{"text": "hello", "id": "1"}', r":2: no 'messages'; sft expects the keys messages, received text, id"),
        (
            "dpo",
            '{"prompt": "a", "chosen": "b"}',
            r":2: no 'rejected'; dpo expects the keys prompt, chosen, rejected, received prompt, chosen",
        ),
        ("kto", '{"prompt": "a", "completion": "b", "label": 1}', r":2: label: expected true or false, received int '1'"),
        ("kto", '{"prompt": "a", "completion": "b", "label": NaN}', r":2: expected one JSON object per line.*NaN is not JSON"),
        ("pretrain", '{"text": NaN}', r":2: expected one JSON object per line.*NaN is not JSON"),
        ("pretrain", '{"text": "  "}', r":2: text: expected text, received str '  '"),
        ("pretrain", '{"text": 3}', r":2: text: expected text, received int '3'"),
        ("pretrain", "", r":2: expected one JSON object per line, received ''"),
        ("pretrain", "text: yaml", r":2: expected one JSON object per line, received 'text: yaml'"),
        ("pretrain", '["text"]', r":2: expected a JSON object, received list"),
        ("sft", '{"messages": []}', r":2: messages: expected a list of \{role, content\}, received list"),
        (
            "sft",
            '{"messages": [{"from": "user", "value": "x"}]}',
            r":2: messages\[0\]: expected the keys role, content, received from, value",
        ),
        ("distill", '{"messages": [{"role": "user", "content": "x"}]}', r":2: messages: no token to learn .* expected an assistant turn"),
        ("sft", '{"messages": [{"role": "assistant", "content": null}]}', r":2: messages\[0\].content: expected text, received NoneType"),
        (
            "dpo",
            '{"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}',
            r":2: prompt: expected the last turn",
        ),
        ("reward", '{"prompt": "x", "chosen": [{"role": "user", "content": "y"}], "rejected": "b"}', r":2: chosen: expected one assistant"),
    ],
)
def test_bad_rows_are_named(method: Method, line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD[method]}\n{line}\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl{message}"):
        read_rows(path, method)


def test_bytes_that_are_not_text_are_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "\xff\xfe"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:1: expected one JSON object per line"):
        read_rows(path, "pretrain")


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"empty\.jsonl: no rows; expected JSON lines with prompt, completion, label"):
        read_rows(tmp_path / "empty.jsonl", "kto")
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file; expected JSON lines with text"):
        read_rows(tmp_path / "absent.jsonl", "pretrain")


def test_of_a_text_every_token_is_learned_and_none_is_lost(small_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    text = "The fee is $5. " * 20
    examples = encode_texts([text], tokenizer, 32)
    assert len(examples) > 2
    assert tokenizer.decode([token for example in examples for token in example.tokens]) == f"<|text|>{text}<|end|>"
    assert all(example.labels == example.tokens for example in examples)


def test_single_rows_have_a_mask_and_no_positions(small_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    examples = encode_texts(["The fee is $5.", "A longer text about the limit of $90."], tokenizer, 64)
    batch = Collator(tokenizer.pad_token_id, packed=False)([columns([example]) for example in examples])
    assert batch.keys() == {"input_ids", "labels", "attention_mask"}
    assert batch["attention_mask"].sum(1).tolist() == [len(example.tokens) for example in examples]
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
