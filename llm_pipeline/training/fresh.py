"""A language model with random weights: what pretraining from scratch starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_pipeline.training.adapters import load_tokenizer
from llm_pipeline.training.recipe import Architecture, Recipe
from llm_pipeline.training.rows import Row, read_rows


def make_model(recipe: Recipe, shape: Architecture, base: Path, data: Path, out: Path) -> None:
    """Write a Llama of this shape with its tokenizer: the base's, or one trained on the rows of `data`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(recipe, shape.vocabulary, data) if shape.vocabulary else load_tokenizer(base)
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _tokenizer(recipe: Recipe, vocabulary: int, data: Path) -> Any:
    from llm_pipeline.training.chat import train_tokenizer

    return train_tokenizer((_said(row) for row in read_rows(data, recipe.method)), vocabulary)


def _said(row: Row) -> str:
    return row["text"] if "text" in row else "\n".join(message["content"] for message in row["messages"])
