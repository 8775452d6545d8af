from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_pipeline.errors import InputError
from llm_pipeline.training.chat import END
from llm_pipeline.training.data import IGNORED, Collator, columns, encode, encode_all, pack
from llm_pipeline_tests.training.conftest import rows

TALK = [
    {"role": "user", "content": "What is the fee?"},
    {"role": "assistant", "content": "$5"},
    {"role": "user", "content": "And the limit?"},
    {"role": "assistant", "content": "$90"},
]


def test_loss_sees_answers_and_their_end_and_nothing_else(small_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    example = encode(TALK, tokenizer)
    assert tokenizer.decode(example.tokens) == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert tokenizer.decode([t for t in example.labels if t != IGNORED]) == f" $5{END} $90{END}"


def test_conversation_without_an_answer_is_refused(small_base: Path) -> None:
    with pytest.raises(InputError, match=r"\['user'\]: expected an assistant turn"):
        encode(TALK[:1], AutoTokenizer.from_pretrained(small_base))


def test_too_long_conversations_are_counted_not_cut(small_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    long = {"messages": [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "yes"}]}
    kept, too_long = encode_all([*rows(4), long], tokenizer, 96)
    assert (len(kept), too_long) == (4, 1)
    with pytest.raises(InputError, match="all 1 conversations are longer than max_length = 96"):
        encode_all([long], tokenizer, 96)


def test_packing_keeps_every_conversation_once_and_fits(small_base: Path) -> None:
    examples, _ = encode_all(rows(40), AutoTokenizer.from_pretrained(small_base), 96)
    packed = pack(examples, 96, seed=1)
    assert sorted(e.tokens for row in packed for e in row) == sorted(e.tokens for e in examples)
    assert max(sum(len(e.tokens) for e in row) for row in packed) <= 96
    assert pack(examples, 96, seed=1) == packed


def test_packed_conversations_do_not_see_one_another(small_base: Path) -> None:
    """The logits of a packed row equal those of its conversations alone."""
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    model = AutoModelForCausalLM.from_pretrained(small_base, attn_implementation="sdpa").eval()
    examples, _ = encode_all(rows(3), tokenizer, 96)
    batch = Collator(tokenizer.pad_token_id)([columns(examples), columns(examples[:1])])
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        start = 0
        for example in examples:
            alone = model(input_ids=torch.tensor([example.tokens])).logits[0]
            torch.testing.assert_close(together[0, start : start + len(example.tokens)], alone, atol=1e-3, rtol=1e-3)
            start += len(example.tokens)
    assert (batch["labels"][1, len(examples[0].tokens) :] == IGNORED).all()
