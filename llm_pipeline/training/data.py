"""Rows into tokens and labels, packed where the model can keep them apart.

Of a conversation the loss sees what the assistant says, its end token included; of a text everything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
TEXT = "<|text|>"
"""Opens a document in the shipped model's vocabulary."""


@dataclass(frozen=True)
class Example:
    """One conversation in tokens; `labels` equals `tokens` where the assistant speaks and `IGNORED` elsewhere."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]


def encode(messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokens and labels by the chat template's `{% generation %}` marks."""
    encoded = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    tokens, mask = encoded["input_ids"], encoded["assistant_masks"]
    if not any(mask):
        roles = [message["role"] for message in messages]
        raise InputError(f"no token to learn in a conversation of {roles}: expected an assistant turn and a template with generation marks")
    return Example(tuple(tokens), tuple(t if m else IGNORED for t, m in zip(tokens, mask, strict=True)))


def encode_all(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[list[Example], int]:
    """The examples that fit into `length` tokens, and how many did not (a cut answer would teach not to stop)."""
    if not rows:
        raise InputError("no training rows: expected at least one {id, messages}")
    examples = [encode(row["messages"], tokenizer) for row in rows]
    kept = [example for example in examples if len(example.tokens) <= length]
    if not kept:
        raise InputError(f"all {len(rows)} conversations are longer than max_length = {length} tokens")
    return kept, len(examples) - len(kept)


def as_document(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text between the marks by which the model tells documents apart."""
    opening = TEXT if TEXT in tokenizer.get_vocab() else tokenizer.bos_token or ""
    return f"{opening}{text}{tokenizer.eos_token or ''}"


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Example]:
    """Every token of every text, marked as a document; a text longer than `length` goes on in further examples."""
    examples = []
    for text in texts:
        tokens = tokenizer.encode(as_document(text, tokenizer), add_special_tokens=False)
        examples += [Example(part, part) for i in range(0, len(tokens), length) if len(part := tuple(tokens[i : i + length])) > 1]
    if not examples:
        raise InputError(f"all {len(texts)} texts are shorter than two tokens")
    return examples


def pack(examples: Sequence[Example], length: int, seed: int) -> list[list[Example]]:
    """Rows of at most `length` tokens, filled best-fit over a shuffled order (Ding et al. 2024, arXiv:2404.10830)."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    rows: list[list[Example]] = []
    open_rows: dict[int, list[int]] = {}
    for example in order:
        size = len(example.tokens)
        space = next((space for space in range(size, length + 1) if open_rows.get(space)), None)
        if space is None:
            rows.append([])
            row, space = len(rows) - 1, length
        else:
            row = open_rows[space].pop()
        rows[row].append(example)
        open_rows.setdefault(space - size, []).append(row)
    return rows


def columns(row: Sequence[Example]) -> dict[str, list[int]]:
    """One packed row; each conversation counts its positions from 0, by which the model keeps them apart."""
    return {
        "input_ids": [t for example in row for t in example.tokens],
        "labels": [t for example in row for t in (IGNORED, *example.labels[1:])],
        "position_ids": [i for example in row for i in range(len(example.tokens))],
    }


@dataclass(frozen=True)
class Collator:
    """Rows into tensors of shape [rows, longest row].

    Packed rows have no attention mask, since their positions keep the conversations apart; rows of one conversation (`packed`
    false) have the mask and no positions, as virtual tokens need it.
    """

    pad: int
    packed: bool = True

    def __call__(self, features: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        import torch

        longest = max(len(feature["input_ids"]) for feature in features)
        fill = {"input_ids": self.pad, "labels": IGNORED} | ({"position_ids": 0} if self.packed else {})
        batch = {
            key: torch.tensor([[*feature[key], *[value] * (longest - len(feature[key]))] for feature in features])
            for key, value in fill.items()
        }
        if not self.packed:
            lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
            batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return batch
