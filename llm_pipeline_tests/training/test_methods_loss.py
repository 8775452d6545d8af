"""The losses against their formulas, computed here from log-probabilities of plain models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_pipeline.training.data import IGNORED, encode
from llm_pipeline.training.distillation import WithPrompts, prompt_of
from llm_pipeline_tests.training.methods import prepared, small

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
Tensor = torch.Tensor


def _trainer(name: str, base: Path, out: Path, *overrides: str) -> Any:
    """A trainer whose model has moved away from its base, so that no term of a loss is zero."""
    trainer = prepared(small(name, base, "adapter=none", "precision=fp32", *overrides), base, out)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std().nan_to_num() * 0.3)
    trainer.model.eval()
    return trainer


def _batch(trainer: Any) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = next(iter(trainer.get_train_dataloader()))
    return batch


def _log_probability(model: Any, tokens: Tensor, answer: Tensor) -> Tensor:
    """log p(answer | prompt) of one row without padding."""
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
    of_each = logits.log_softmax(-1)[torch.arange(len(tokens) - 1), tokens[1:]]
    return of_each[answer[1:].bool()].sum()


def _log_probabilities(model: Any, batch: dict[str, Tensor], prefix: str = "") -> Tensor:
    names = [f"{prefix}{name}" for name in ("input_ids", "attention_mask", "completion_mask")]
    rows = zip(*(batch[name] for name in names), strict=True)
    with torch.no_grad():
        return torch.stack([_log_probability(model, ids[mask.bool()], answer[mask.bool()]) for ids, mask, answer in rows])


def test_dpo_loss_is_the_papers(small_base: Path, tmp_path: Path) -> None:
    trainer, base = _trainer("dpo", small_base, tmp_path, "preference.beta=0.3"), AutoModelForCausalLM.from_pretrained(small_base).eval()
    batch = _batch(trainer)
    moved = _log_probabilities(trainer.model, batch) - _log_probabilities(base, batch)
    chosen, rejected = moved.chunk(2)
    expected = -torch.nn.functional.logsigmoid(0.3 * (chosen - rejected)).mean()
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-3)


def test_dpo_sees_the_answer_and_its_end_only(small_base: Path, tmp_path: Path) -> None:
    batch = _batch(_trainer("dpo", small_base, tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    answers = {tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)}
    assert answers <= {" $5<|end|>", " $90<|end|>", " 2.5%<|end|>", " 9 months<|end|>"}


def test_kto_loss_is_the_papers(small_base: Path, tmp_path: Path) -> None:
    overrides = ["preference.beta=0.2", "preference.desirable_weight=1.5", "preference.undesirable_weight=0.5"]
    trainer, base = _trainer("kto", small_base, tmp_path, *overrides), AutoModelForCausalLM.from_pretrained(small_base).eval()
    batch = _batch(trainer)
    moved = _log_probabilities(trainer.model, batch) - _log_probabilities(base, batch)
    drift = (_log_probabilities(trainer.model, batch, "KL_") - _log_probabilities(base, batch, "KL_")).mean().clamp(min=0)
    liked = torch.as_tensor(batch["label"]).bool()
    value = torch.where(liked, torch.sigmoid(0.2 * (moved - drift)), torch.sigmoid(0.2 * (drift - moved)))
    expected = (torch.where(liked, 1.5, 0.5) * (1 - value)).mean()
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-3)


def test_reward_loss_is_bradley_terrys(small_base: Path, tmp_path: Path) -> None:
    trainer = _trainer("reward", small_base, tmp_path)
    batch = _batch(trainer)
    with torch.no_grad():
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        scores = torch.stack([trainer.model(input_ids=ids[mask.bool()][None]).logits[0, 0] for ids, mask in rows])
        chosen, rejected = scores.chunk(2)
        loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert loss == pytest.approx(-torch.nn.functional.logsigmoid(chosen - rejected).mean().item(), rel=1e-3)


@pytest.mark.parametrize("divergence", [0.0, 0.5, 1.0])
def test_distillation_loss_is_the_divergence_of_the_answers_tokens(small_base: Path, tmp_path: Path, divergence: float) -> None:
    trainer = _trainer("distill", small_base, tmp_path, f"distillation.divergence={divergence}")
    teacher, batch = AutoModelForCausalLM.from_pretrained(small_base).eval(), _batch(trainer)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        said = batch["labels"][:, 1:] != IGNORED
        p, q = (model(**inputs, use_cache=False).logits[:, :-1].float().softmax(-1)[said] for model in (teacher, trainer.model))
        mixture = divergence * p + (1 - divergence) * q

        def kl(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(a > 0, a * (a.clamp(min=1e-38).log() - b.clamp(min=1e-38).log()), 0.0).sum(-1).mean()

        whole = {0.0: lambda: kl(p, q), 1.0: lambda: kl(q, p)}
        expected = whole[divergence]() if divergence in whole else divergence * kl(p, mixture) + (1 - divergence) * kl(q, mixture)
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=2e-2)


def test_a_student_samples_from_what_precedes_the_last_answer(small_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    talk = [
        {"role": "user", "content": "What is the fee?"},
        {"role": "assistant", "content": "$5"},
        {"role": "user", "content": "And the limit?"},
        {"role": "assistant", "content": "$90"},
    ]
    example = encode(talk, tokenizer)
    prompt = tokenizer.apply_chat_template(talk[:3], add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(prompt_of(example.tokens, example.labels)) == prompt
    short = encode(talk[:2], tokenizer)
    features = [{"input_ids": list(e.tokens), "labels": list(e.labels)} for e in (example, short)]
    batch = WithPrompts(tokenizer.pad_token_id, packed=False)(features)
    assert batch["prompts"].shape == batch["prompt_attention_mask"].shape
    assert (batch["prompts"][:, -1] == example.tokens[len(prompt_of(example.tokens, example.labels)) - 1]).all(), "padded on the left"
    assert batch["attention_mask"].sum(1).tolist() == [len(example.tokens), len(short.tokens)]
