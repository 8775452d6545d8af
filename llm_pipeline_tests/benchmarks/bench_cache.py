"""The answer cache by meaning: what it answers rightly and wrongly at each threshold, with and without the facts guard, and how fast it is.

Two streams of questions: the generator's bank (60 facts, each asked in many wordings, with small talk) and the test part of the public set
banking77 (77 intents; many intents differ only in a nuance or by mistake, so its false hits are counted too high).
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.support import prose
from llm_pipeline.curation.support.bank import SupportConfig, bank
from llm_pipeline.curation.support.world import HELD_OUT_QUESTIONS, QUESTIONS
from llm_pipeline.errors import InputError
from llm_pipeline.paths import DATA
from llm_pipeline.retrieval.embedding import Embedder
from llm_pipeline.serving.cache.answers import AnswerCache
from llm_pipeline.serving.cache.calibration import at_threshold, calibrate, pairs_of
from llm_pipeline.serving.cache.semantic import MOST_ALIKE, Space
from llm_pipeline.serving.gateway.protocol import ChatRequest
from llm_pipeline.serving.protection.keys import Key
from llm_pipeline_tests.conftest import SHARED_DATA
from llm_pipeline_tests.serving.test_cache import answered

QUESTIONS_EACH, THRESHOLDS, MOST = 2000, (0.98, 0.96, 0.95, 0.94, 0.93, 0.92, 0.9, 0.85, 0.8), 0.01
Stream = list[tuple[str, str]]


def bank_stream(seed: int, products: Callable[[str], bool] = lambda _: True) -> Stream:
    """(question, fact) of random customers; a fact is a product and one of its attributes."""
    config, r = SupportConfig(), random.Random(seed)
    facts = [fact for fact in bank(config, config.all_days[3]).facts if products(fact.product)]
    stream = []
    for _ in range(QUESTIONS_EACH):
        fact = r.choice(facts)
        question = fact.ask(r, HELD_OUT_QUESTIONS if r.random() < 0.3 else QUESTIONS)
        if r.random() < 0.4:
            question = r.choice(prose.GREETINGS) + question + r.choice(prose.ENDINGS)
        stream.append((question, f"{fact.product}: {fact.attribute.names[0]}"))
    return stream


def public_stream() -> Stream:
    path = SHARED_DATA / "banking77" / "test.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    return [(row["text"], row["label"]) for row in rows[:QUESTIONS_EACH]]


def served(stream: Stream, vectors: Callable[[Sequence[str]], Any], threshold: float, *, guard: bool) -> tuple[int, int, int]:
    """(questions, hits, wrong hits) of a cache that starts empty and meets the stream; equal wordings are not counted."""
    from llm_pipeline.serving.cache.facts import facts

    meaning = dict(stream)
    texts, spaces = list(meaning), dict[Any, list[int]]()
    known, hits, wrong = vectors(texts), 0, 0
    for i, text in enumerate(texts):
        space = spaces.setdefault(facts(text) if guard else None, [])
        if space and (scores := known[space] @ known[i]).max() >= threshold:
            hits += 1
            wrong += meaning[texts[space[int(scores.argmax())]]] != meaning[text]
        else:
            space.append(i)
    return len(texts), hits, wrong


def quality(console: Console, embedder: Embedder) -> None:
    made: dict[tuple[str, ...], Any] = {}

    def vectors(texts: Sequence[str]) -> Any:
        if tuple(texts) not in made:
            made[tuple(texts)] = embedder.embed(texts)
        return made[tuple(texts)]

    for name, stream in (("bank", bank_stream(0)), ("banking77", public_stream())):
        if not stream:
            console.print(f"{name}: not here, left out")
            continue
        for guard in (False, True):
            title = f"{name}, {'with' if guard else 'without'} the facts guard"
            table = Table("threshold", "hits", "wrong of the hits", "false-hit rate", "upper bound (95%)", title=title)
            pairs = pairs_of(stream, vectors, guard=guard)
            for threshold in THRESHOLDS:
                found, (number, hits, wrong) = at_threshold(pairs, threshold), served(stream, vectors, threshold, guard=guard)
                rate = f"{found.false_hits} of {found.different}"
                table.add_row(f"{threshold}", f"{hits / number:.1%}", f"{wrong / max(1, hits):.2%}", rate, f"{found.bound:.2%}")
            console.print(table)
            try:
                console.print(f"calibrated for at most {MOST:.0%}: {calibrate(pairs, MOST)}")
            except InputError as error:
                console.print(str(error))
    names = sorted({meaning.partition(":")[0] for _, meaning in bank_stream(0)})
    chosen = calibrate(pairs_of(bank_stream(1, lambda product: names.index(product) % 2 == 0), embedder.embed), MOST)
    other = at_threshold(pairs_of(bank_stream(2, lambda product: names.index(product) % 2 == 1), embedder.embed), chosen.threshold)
    console.print(
        f"chosen on half of the products: {chosen.threshold}; on the other half {other.false_hits} of {other.different} are false hits"
    )


@dataclass(frozen=True)
class Arm:
    release: str
    engine: dict[str, Any]


def _milliseconds(times: list[float]) -> tuple[str, str]:
    ordered = sorted(times)
    return f"{1000 * statistics.median(ordered):.3f}", f"{1000 * ordered[int(0.99 * len(ordered))]:.3f}"


async def _lookups(cache: AnswerCache, questions: Sequence[str], arm: Arm, *, keep: bool) -> list[float]:
    key, times = Key(1, "k", frozenset({"chat"})), []
    for question in questions:
        begun = time.perf_counter()
        found = await cache.lookup(ChatRequest([{"role": "user", "content": question}]), arm, key)
        times.append(time.perf_counter() - begun)
        if keep and found.state == "miss":
            cache.store(found, answered("An answer of about forty characters.", arm.release))
        cache.release(found)
    return times


async def speed(console: Console, embedder: Embedder, generation: list[float]) -> None:
    cache = AnswerCache(load=lambda: embedder)
    await cache.encoder.loaded()
    exact = Arm("exact", {"cache": {"exact": True}})
    semantic = Arm("semantic", {"cache": {"exact": True, "semantic": True, "wait_seconds": 5.0}})
    questions = list(dict(bank_stream(0)))
    table = Table("lookup", "p50 ms", "p99 ms", title="latency of one lookup")
    table.add_row("exact, miss", *_milliseconds(await _lookups(cache, questions, exact, keep=True)))
    table.add_row("exact, hit", *_milliseconds(await _lookups(cache, questions, exact, keep=False)))
    half, rest = questions[:700], questions[700:1400]
    await _lookups(cache, half, semantic, keep=True)
    embedder.remembered = 0
    before = cache.counts["semantic"]
    table.add_row("semantic (embedding and comparison)", *_milliseconds(await _lookups(cache, rest, semantic, keep=False)))
    hits = cache.counts["semantic"] - before
    space, random_vectors = Space(), np.random.default_rng(0).normal(size=(MOST_ALIKE, 384)).astype(np.float32)
    for i, vector in enumerate(random_vectors):
        space.add(b"%d" % i, vector)
    times = []
    for vector in random_vectors[:500]:
        begun = time.perf_counter()
        space.nearest(vector)
        times.append(time.perf_counter() - begun)
    table.add_row(f"the comparison alone, {MOST_ALIKE} kept questions", *_milliseconds(times))
    table.add_row("an answer of 32 tokens by the shipped 4.5M-parameter model", *_milliseconds(generation))
    console.print(table)
    console.print(
        f"{hits} of {len(rest)} new wordings answered by meaning; the cache holds {len(cache)} answers in {cache.bytes / 1e6:.1f} MB"
    )
    cache.close()


def generation() -> list[float]:
    """Seconds of greedy answers of 32 tokens, one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = DATA / "models" / "tiny_base"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    times = []
    for question, _ in bank_stream(0)[:30]:
        tokens = tokenizer(question, return_tensors="pt")
        begun = time.perf_counter()
        with torch.inference_mode():
            model.generate(**tokens, max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=tokenizer.pad_token_id or 0)
        times.append(time.perf_counter() - begun)
    return times


def main() -> None:
    console, embedder = Console(width=140), Embedder()
    quality(console, embedder)
    asyncio.run(speed(console, embedder, generation()))


if __name__ == "__main__":
    main()
