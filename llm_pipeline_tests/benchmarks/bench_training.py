"""Training speed: our trainer against a plain torch loop on the same packed rows, and against transformers' Trainer as it comes.

Tokens are real ones (no padding). Every way trains the same LoRA model on the same conversations in a process of its own with the
same threads; the ways take turns, and medians are printed. `--scale` measures a 1B-class Llama with random weights per ZeRO stage
where there is a GPU: tokens/s, model FLOPs utilisation, peak memory (`--scale --toy` runs the same code on a CPU, to see that it does).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.sft import PROMPT, Mix, examples
from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.curation.support.generator import make_day
from llm_pipeline.prompts import load_prompt
from llm_pipeline.store import read_jsonl, write_jsonl
from llm_pipeline.training.bases import SHIPPED
from llm_pipeline.training.launch import worker_env
from llm_pipeline.training.recipe import Recipe, load_recipe

WARM = 4
"""Steps at the start that do not count: memory is still being laid out."""


@dataclass
class Clock:
    """Tokens, wall seconds and CPU seconds of the steps that count; a step's tokens are known when it begins."""

    skip: int = WARM
    steps: int = 0
    tokens: int = 0
    marks: list[tuple[float, float, int]] = field(default_factory=list)

    def step(self, tokens: int) -> None:
        """A step with so many tokens has ended."""
        self.steps += 1
        self.tokens += tokens
        if self.steps >= self.skip:
            self.marks.append((time.perf_counter(), time.process_time(), self.tokens))

    def rates(self) -> dict[str, float]:
        (wall, cpu, tokens), (wall_end, cpu_end, tokens_end) = self.marks[0], self.marks[-1]
        done = tokens_end - tokens
        return {"tokens_per_second": done / (wall_end - wall), "tokens_per_cpu_second": done / (cpu_end - cpu)}


def demo_rows(days: int = 7) -> list[dict[str, Any]]:
    """The demo's tuning rows: the bank's conversations and articles of a week through the pipeline's own dataset builder."""
    config = SupportConfig()
    documents = []
    for day in config.all_days[:days]:
        for doc in make_day(config, day).documents:
            if doc.plants or doc.language != "en":
                continue
            turns = [{"role": r, "content": t} for turn in doc.turns for r, t in zip(("user", "assistant"), turn, strict=True)]
            documents.append(
                {
                    "id": doc.key, "cluster_id": doc.key, "kind": doc.kind, "title": doc.title, "text": doc.text(), "day": day,
                    "messages": json.dumps(turns) if turns else None,
                }
            )  # fmt: skip
    return examples(documents, load_prompt(PROMPT), Mix(), 0)


def ours(recipe: Recipe, data: Path, base: Path, out: Path) -> dict[str, float]:
    """Our worker's whole run: packed rows, TRL, DeepSpeed when the recipe has a stage, progress and checkpoints watched."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port()}
    from llm_pipeline.training.interrupt import Interrupt
    from llm_pipeline.training.trainers import Job
    from llm_pipeline.training.worker import run

    clock, per_step, seen = Clock(skip=1), 0.0, 0

    def report(message: dict[str, Any]) -> None:
        nonlocal per_step, seen
        if message["event"] == "data":
            per_step = message["tokens"] / message["rows"] * recipe.batch_size
        elif message["event"] == "progress":
            clock.step(round((message["step"] - seen) * per_step))
            seen = message["step"]

    run(Job(recipe, data, None, base, out), report, Interrupt(), True)
    return clock.rates()


def plain(recipe: Recipe, data: Path, base: Path, out: Path) -> dict[str, float]:
    """A plain loop over the same packed rows: the same model and adapter under autocast, AdamW, clipping, nothing else."""
    import torch
    from peft import get_peft_model

    from llm_pipeline.training.adapters import load_model, load_tokenizer, peft_config
    from llm_pipeline.training.data import Collator, columns
    from llm_pipeline.training.language import arrange, encode_rows

    tokenizer = load_tokenizer(base)
    rows = [columns(row) for row in arrange(encode_rows(read_jsonl(data), tokenizer, recipe)[0], recipe)]
    collate, model = Collator(tokenizer.pad_token_id), load_model(recipe, base)
    config = peft_config(recipe)
    model = get_peft_model(model, config) if config else model
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    clock = Clock()
    for i in range(recipe.max_steps):
        chosen = [rows[order[(i * recipe.batch_size + k) % len(rows)]] for k in range(recipe.batch_size)]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = model(**collate(chosen)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        clock.step(sum(len(row["input_ids"]) for row in chosen))
    return clock.rates()


def defaults(recipe: Recipe, data: Path, base: Path, out: Path) -> dict[str, float]:
    """transformers' Trainer as it comes: one conversation a row, padded to the longest of the batch, 8 rows, its own defaults."""
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    from llm_pipeline.training.adapters import load_tokenizer, peft_config
    from llm_pipeline.training.data import encode_all

    tokenizer = load_tokenizer(base)
    encoded, _ = encode_all(read_jsonl(data), tokenizer, recipe.max_length)
    rows = [{"input_ids": list(e.tokens), "labels": list(e.labels), "attention_mask": [1] * len(e.tokens)} for e in encoded]
    arguments = TrainingArguments(output_dir=str(out), max_steps=recipe.max_steps, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Trainer(
        model=get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft_config(recipe)),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    clock, sizes = Clock(), []

    def collate(features: Sequence[Any]) -> Any:
        sizes.append(sum(len(feature["input_ids"]) for feature in features))
        return trainer_collate(features)

    class Timer(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step(sizes.pop(0))  # the loader works ahead

    trainer_collate, trainer.data_collator = trainer.data_collator, collate
    trainer.add_callback(Timer())
    trainer.train()
    return clock.rates()


WAYS = {"ours": ours, "plain": plain, "defaults": defaults}


def _port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def main(
    rounds: int = 3,
    steps: int = 24,
    threads: int = 0,
    recipe: str = "tiny_cpu",
    scale: bool = False,
    toy: bool = False,
    peak_tflops: float = 0.0,
    way: Annotated[str, typer.Option(hidden=True)] = "",
    work: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare; `--way` runs one of them alone (that is how the others are started)."""
    if way:
        return _one(way, work or Path())
    if scale:
        from llm_pipeline_tests.benchmarks.training_scale import compare_stages

        return compare_stages(toy, steps, peak_tflops)
    chosen = replace(load_recipe(recipe), max_steps=steps, threads=threads, save_steps=10**6, logging_steps=WARM)
    with tempfile.TemporaryDirectory() as folder:
        rows = demo_rows()
        write_jsonl(Path(folder) / "train.jsonl", rows)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for _ in range(rounds):
            for name in WAYS:
                found[name].append(run_alone(name, chosen, Path(folder) / "train.jsonl", SHIPPED))
    Console().print(_table(found, len(rows), steps))


def run_alone(way: str, recipe: Recipe, data: Path, base: Path, **extra: Any) -> dict[str, float]:
    """One way in a process with the worker's environment."""
    with tempfile.TemporaryDirectory() as folder:
        job = {"recipe": asdict(recipe), "data": str(data), "base": str(base), **extra}
        (Path(folder) / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "llm_pipeline_tests.benchmarks.bench_training", "--way", way, "--work", folder]
        done = subprocess.run(command, env=worker_env(recipe), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{way}: {done.stderr[-3000:]}")
        result: dict[str, float] = json.loads((Path(folder) / "result.json").read_text())
        return result


def _one(way: str, work: Path) -> None:
    import torch

    from llm_pipeline.config import build

    job = json.loads((work / "job.json").read_text())
    recipe = build(Recipe, job["recipe"], "job.json")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    result = WAYS[way](recipe, Path(job["data"]), Path(job["base"]), work)
    if torch.cuda.is_available():
        result["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    (work / "result.json").write_text(json.dumps(result))


def _table(found: dict[str, list[dict[str, float]]], rows: int, steps: int) -> Table:
    table = Table(
        "way",
        "tokens/s",
        "x ours",
        "tokens per CPU s",
        "x ours",
        title=f"{rows} conversations, {steps} steps, medians of {len(found['ours'])}",
    )
    medians = {
        name: [statistics.median(result[key] for result in results) for key in ("tokens_per_second", "tokens_per_cpu_second")]
        for name, results in found.items()
    }
    for name, (wall, cpu) in medians.items():
        own_wall, own_cpu = medians["ours"]
        table.add_row(name, f"{wall:,.0f}", f"{own_wall / wall:.2f}", f"{cpu:,.0f}", f"{own_cpu / cpu:.2f}")
    return table


if __name__ == "__main__":
    typer.run(main)
