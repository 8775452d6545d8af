"""Requests of every kind in one batch: each is answered as if it were alone."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.serving.engine.adapters import Adapters
from llm_pipeline.serving.engine.batching import Batcher
from llm_pipeline.serving.engine.generation import Limits, Sampling, Tokens
from llm_pipeline.serving.engine.grammar import Grammars
from llm_pipeline.serving.engine.parity import QUESTIONS
from llm_pipeline.serving.engine.sampling import Row
from llm_pipeline.serving.gateway.asgi import HttpError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers
LONGEST = 14
SCHEMAS: tuple[dict[str, Any], ...] = (
    {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": -3, "maximum": 12}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    },
    {"enum": ["low", "medium", {"level": 3}, None]},
    {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 3},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"], "additionalProperties": False,
     "$defs": {"x": {"anyOf": [{"const": "é"}, {"type": "string", "pattern": "^[a-c]{2,5}$"}]}}},
)  # fmt: skip


def save_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter that changes every answer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"])
    )
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.6)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(model, root / name, seed) for seed, name in enumerate(("bank", "shop"))}


@pytest.fixture(scope="module")
def batcher(model: Path, adapters: dict[str, Path]) -> Iterator[Batcher]:
    found = Batcher(model, Limits(kv_megabytes=24), adapters=adapters)
    found.start()
    yield found
    found.stop()


def generated(model: Path, adapter: Path | None, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """What transformers makes of each prompt alone."""
    from transformers import AutoModelForCausalLM

    alone: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    if adapter is not None:
        from peft import PeftModel

        alone = PeftModel.from_pretrained(alone, adapter).eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        out = alone.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False)
        found.append([i for i in out[0, len(prompt) :].tolist() if i != alone.generation_config.eos_token_id])
    return found


async def ask(batcher: Batcher, row: Row, longest: int = LONGEST, *, each: bool = True) -> Tokens:
    async with aclosing(batcher.generate(row.prompt, longest, row, each=each)) as results:
        async for tokens in results:
            last = tokens
    return last


def together(batcher: Batcher, rows: Sequence[Row], longest: int = LONGEST) -> list[Tokens]:
    async def all_of_them() -> list[Tokens]:
        return await asyncio.gather(*(ask(batcher, row, longest, each=i % 2 == 0) for i, row in enumerate(rows)))

    return asyncio.run(all_of_them())


def prompts(batcher: Batcher) -> list[list[int]]:
    return [batcher.texts.encode([{"role": "user", "content": question}]) for question in QUESTIONS]


def disturbing(batcher: Batcher, how_many: int) -> list[Row]:
    """Neighbours of every kind."""
    grammars = Grammars(batcher.texts.tokenizer, batcher.model.config.vocab_size, sorted(batcher.end_ids))
    chance = random.Random(4)
    kinds = (
        lambda: Row(Sampling(temperature=1.5, top_p=0.9, logprobs=2), chance.choice(prompts(batcher))),
        lambda: Row(Sampling(temperature=2.0, top_k=5, min_p=0.01), chance.choice(prompts(batcher)), adapter="shop"),
        lambda: Row(Sampling(frequency_penalty=2.0, repetition_penalty=1.4), chance.choice(prompts(batcher))),
        lambda: Row(Sampling(temperature=1.0), chance.choice(prompts(batcher)), grammars.matcher({"type": "json_object"})),
    )
    return [kinds[i % len(kinds)]() for i in range(how_many)]


def test_every_greedy_request_of_a_mixed_batch_equals_generate(model: Path, adapters: dict[str, Path], batcher: Batcher) -> None:
    asked = prompts(batcher)
    expected = {name: generated(model, adapters.get(name or ""), asked) for name in (None, "bank", "shop")}
    assert expected[None] != expected["bank"] != expected["shop"]
    greedy = [(name, i) for i in range(len(asked)) for name in expected]
    rows = [Row(Sampling(logprobs=0), asked[i], adapter=name) for name, i in greedy]
    mixed = [*disturbing(batcher, 9), *rows, *disturbing(batcher, 8)]
    answers = together(batcher, mixed)[9 : 9 + len(rows)]
    for (name, i), answer in zip(greedy, answers, strict=True):
        assert list(answer.ids) == expected[name][i], (name, i)
        assert len(answer.logprobs) == len(answer.ids)


def test_a_seed_repeats_beside_any_neighbours(batcher: Batcher) -> None:
    def mine() -> list[Row]:
        return [Row(Sampling(temperature=1.4, top_p=0.97, seed=f"{i}"), prompt) for i, prompt in enumerate(prompts(batcher))]

    alone = [list(together(batcher, [row])[0].ids) for row in mine()]
    assert [list(tokens.ids) for tokens in together(batcher, [*mine(), *disturbing(batcher, 10)])[: len(alone)]] == alone
    assert len({tuple(ids) for ids in alone}) > 1


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_answer_of_a_schema_always_validates(batcher: Batcher, schema: dict[str, Any]) -> None:
    grammars = Grammars(batcher.texts.tokenizer, batcher.model.config.vocab_size, sorted(batcher.end_ids))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    samplings = [Sampling(), Sampling(presence_penalty=2.0), *(Sampling(temperature=t, seed=f"{t}") for t in (0.7, 1.0, 1.5, 2.0))]
    rows = [Row(sampling, prompts(batcher)[0], grammars.matcher(form)) for sampling in samplings]
    answers = together(batcher, rows, 200)
    for answer in answers:
        assert answer.finish == "stop"
        jsonschema.validate(json.loads(batcher.texts.decode(answer.ids)), schema)


def test_the_cache_is_empty_when_everybody_has_been_answered_or_has_left(batcher: Batcher) -> None:
    async def leave() -> int:
        most = 0
        async with aclosing(batcher.generate(prompts(batcher)[0], 500, Row(Sampling(temperature=2.0)))) as results:
            async for tokens in results:
                most = max(most, batcher.pages_used)
                if len(tokens.ids) > 3:
                    break
        deadline = asyncio.get_running_loop().time() + 20
        while batcher.pages_used:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        return most

    assert asyncio.run(leave()) >= 1
    assert batcher.places.running == batcher.places.waiting == 0


def test_a_schema_that_is_not_understood_is_refused(batcher: Batcher) -> None:
    grammars = Grammars(batcher.texts.tokenizer, batcher.model.config.vocab_size, sorted(batcher.end_ids))
    for schema in ({"type": "obj"}, {"not": {"type": "object"}}):
        with pytest.raises(HttpError, match=r"response_format\.json_schema\.schema") as caught:
            grammars.matcher({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert caught.value.status == 400


def test_the_cache_stays_within_its_budget(model: Path, batcher: Batcher) -> None:
    small = Batcher(model, Limits(kv_megabytes=1))
    assert small.context < batcher.context
    with pytest.raises(HttpError, match=f"exceeds the context of {small.context}"):
        small.admit(small.context, 1, 8)
    with pytest.raises(ConfigError, match="kv_megabytes: received 1, expected at least"):
        Batcher(model, Limits(kv_megabytes=1, batch_tokens=20_000))


def test_int8_weights_answer_almost_as_the_model_does_and_take_adapters(model: Path, adapters: dict[str, Path], batcher: Batcher) -> None:
    quantized = Batcher(model, Limits(kv_megabytes=24), adapters=adapters, quantization="int8")
    ids = torch.tensor([prompts(batcher)[0]])
    quantized.start()
    try:
        with_adapter, plain = together(quantized, [Row(Sampling(logprobs=0), ids[0].tolist(), adapter=name) for name in ("bank", None)])
    finally:
        quantized.stop()
    assert list(with_adapter.ids) != list(plain.ids)
    exact, small = (found.model.model.layers[0].mlp.down_proj for found in (batcher, quantized))
    inputs = torch.randn(50, exact.in_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = inputs @ exact.weight.T, small.forward(inputs)
    assert not torch.equal(expected, got)
    assert float((expected - got).norm() / expected.norm()) < 0.02


def _config(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_an_adapter_that_would_not_be_honoured_is_refused(model: Path, batcher: Batcher, tmp_path: Path) -> None:
    for changes in ({"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}):
        folder = _config(save_adapter(model, tmp_path / f"{changes}", 1), **changes)
        with pytest.raises(InputError, match="expected plain LoRA"):
            Adapters(batcher.model, {"x": folder})
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        Adapters(batcher.model, {"x": tmp_path})
    with pytest.raises(InputError, match="no linear layer of this base"):
        Adapters(torch.nn.Linear(2, 2), {"x": save_adapter(model, tmp_path / "fine", 1)})
