"""Publishing a pretrained base: bf16 safetensors with its recipe, its loss curve, how well it reads, and a model card."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_pipeline.curation.support.practice import grounded_question
from llm_pipeline.curation.support.world import BRANDS, HELD_OUT_QUESTIONS, PRODUCT_TYPES, QUESTIONS, build_world
from llm_pipeline.training.base import BaseRecipe

FACTS_PER_PRODUCT = 6


def reading_accuracy(folder: Path, products: int, templates: Sequence[str], *, n: int = 200, seed: int = 7) -> float:
    """Exact match of greedy answers about one fact among `products` x 6 stated ones, in worlds that no training run saw."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    r = random.Random(f"reading/{seed}/{products}")
    prompts, answers = [], []
    for _ in range(n):
        names = [f"{brand} {kind}" for brand, kind in zip(r.sample(BRANDS, products), r.choices(PRODUCT_TYPES, k=products), strict=True)]
        world = build_world(names, FACTS_PER_PRODUCT, r)
        passages = [" ".join(fact.state(r, canonical=True) for fact in world.about(name)) for name in names]
        fact = r.choice(world.facts)
        chat = [{"role": "user", "content": grounded_question(passages, fact.ask(r, templates))}]
        prompts.append(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        answers.append(fact.value)
    said = []
    for start in range(0, n, 50):
        batch = tokenizer(prompts[start : start + 50], return_tensors="pt", padding=True, add_special_tokens=False)
        output = model.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=24, do_sample=False)
        said += tokenizer.batch_decode(output[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return sum(a.strip() == b for a, b in zip(said, answers, strict=True)) / n


def publish_base(checkpoint: Path, out: Path, recipe: BaseRecipe, note: str = "") -> Mapping[str, Any]:
    """Write the model of a trainer's checkpoint to `out` and return the card's figures."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    curve = [{"step": entry["step"], "loss": entry["loss"]} for entry in history if "loss" in entry]
    (out / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe), sort_keys=False))
    (out / "curve.json").write_text(json.dumps(curve))
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": recipe.steps,
        "tokens": recipe.steps * recipe.batch_size * recipe.sequence_length,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "reading": {
            f"{products} x {FACTS_PER_PRODUCT} facts, {kind} questions": reading_accuracy(out, products, templates)
            for products in (1, 2, 3)
            for kind, templates in (("practised", QUESTIONS), ("unseen", HELD_OUT_QUESTIONS))
        },
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    (out / "README.md").write_text(_card(figures, recipe, note))
    return figures


def _card(figures: Mapping[str, Any], recipe: BaseRecipe, note: str) -> str:
    reading = "\n".join(f"| {name} | {value:.2f} |" for name, value in figures["reading"].items())
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    return f"""# tiny_base

A Llama-architecture model of {figures["parameters"] / 1e6:.1f} million parameters (bf16 safetensors), trained from nothing by this project.
It can do one thing: read a short value out of a given context, in the chat format of its tokenizer. It knows no facts.

- **Made by** `llm-pipeline pretrain llm_pipeline/recipes/tiny_base.yaml --out FOLDER`: {figures["steps"]:,} steps,
  {figures["tokens"] / 1e6:.0f} million tokens, seed {recipe.seed} ({versions}).
- **Text**: random worlds of products and facts drawn afresh for every sample (`curation/support/practice.py`), and
  {recipe.prose_share:.0%} documentation strings of Python's standard library (PSF licence). No personal data, no scraped text.
- **Loss curve** in `curve.json`, every setting in `recipe.yaml`, figures in `figures.json`.
- **Limits**: English, short contexts (up to {recipe.sequence_length} tokens in training), values that stand in the text. Anything else it
  answers badly: fine-tune it, or name a larger model in the recipe. Licence: Apache-2.0, as the project.
{note}
Exact match of greedy answers on 200 questions each about worlds that no training saw:

| context | exact match |
|---|---|
{reading}
"""
