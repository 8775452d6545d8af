"""The real worker: TRL under DeepSpeed, started by torchrun, killed, resumed, merged, registered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from llm_pipeline.errors import TrainingError
from llm_pipeline.store import Home, content_hash, write_jsonl
from llm_pipeline.training.launch import Message, curve, train
from llm_pipeline.training.merge import merge
from llm_pipeline.training.sft import fingerprint, make_checkpoint
from llm_pipeline_tests.training.conftest import FACTS, QUICK, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # PEFT asks by the old name
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's tables under SQLAlchemy 2.1
]


def _trainers(work: Path) -> list[psutil.Process]:
    """The launcher and all its workers, wherever their sessions are."""
    running = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return [process for process in running if str(work) in " ".join(process.cmdline())]


def _kill_trainer(work: Path) -> None:
    for process in _trainers(work):
        process.kill()


def _data(folder: Path) -> Path:
    write_jsonl(folder / "train.jsonl", rows())
    return folder / "train.jsonl"


@pytest.fixture(scope="module")
def uninterrupted(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(QUICK, data=_data(folder), base=small_base, work=folder / "work")
    return folder / "work"


def test_killed_training_resumes_and_ends_with_the_same_weights(small_base: Path, uninterrupted: Path, tmp_path: Path) -> None:
    work, data = tmp_path / "work", _data(tmp_path)

    def kill_after_second_checkpoint(message: Message) -> None:
        if message["event"] == "checkpoint" and message["step"] >= 40:
            _kill_trainer(work)

    with pytest.raises(TrainingError, match="was killed") as failure:
        train(QUICK, data=data, base=small_base, work=work, on_message=kill_after_second_checkpoint)
    assert failure.value.retryable
    messages: list[Message] = []
    result = train(QUICK, data=data, base=small_base, work=work, on_message=messages.append)
    assert next(m["step"] for m in messages if m["event"] == "start") >= 40
    mine, theirs = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (result, uninterrupted / "result"))
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name].float(), theirs[name].float(), atol=1e-3, rtol=1e-2, msg=lambda m, name=name: f"{name}: {m}")
    assert [p["step"] for p in curve(work)] == [p["step"] for p in curve(uninterrupted)]
    assert curve(work)[-1]["loss"] == pytest.approx(curve(uninterrupted)[-1]["loss"], rel=0.02, abs=1e-3)


def test_the_model_learned_the_answers_and_stops_by_itself(small_base: Path, uninterrupted: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merge(small_base, uninterrupted / "result" / "adapter", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    for name, value in FACTS.items():
        question = [{"role": "user", "content": f"What is the {name}?"}]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        out = model.generate(**prompt, max_new_tokens=24)[0, prompt["input_ids"].shape[1] :].tolist()
        assert out[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(out, skip_special_tokens=True).strip() == value


def test_interrupted_parent_leaves_no_process_and_a_checkpoint(small_base: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    pids: list[int] = []

    def stop(message: Message) -> None:
        if message["event"] == "progress":
            pids.extend([process.pid for process in _trainers(work)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(QUICK, max_steps=2000, processes=2), data=_data(tmp_path), base=small_base, work=work, on_message=stop)
    assert pids
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert json.loads((work / "status.json").read_text())["state"] == "interrupted"
    assert list(work.glob("checkpoint-*/complete.json"))


def test_wrong_data_fails_for_good_in_the_workers_words(small_base: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(TrainingError, match="expected an assistant turn") as failure:
        train(QUICK, data=data, base=small_base, work=tmp_path / "work")
    assert not failure.value.retryable


def test_the_same_inputs_are_trained_once(home: Home) -> None:
    dataset, base = home.artifacts.named("sft_dataset"), home.artifacts.named("base_model")
    work = home.root / "work" / "sft" / content_hash(fingerprint(QUICK, dataset, base))
    (work / "result" / "adapter").mkdir(parents=True)
    (work / "result" / "figures.json").write_text(json.dumps({"steps": 3}))
    first = make_checkpoint(home, QUICK, dataset, base)
    assert not first.reused
    assert make_checkpoint(home, replace(QUICK, save_steps=7), dataset, base).reused
    assert not work.exists()
