"""A loss that is no number ends the run before it reaches the weights, with the rows of its batch named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.errors import TrainingError

SHOWN = 8


def guard(trainer: Any, data: Path) -> None:
    """Make `trainer` raise TrainingError at the first loss that is not finite; the check waits for the loss once per micro-batch."""
    import torch

    compute = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        batch = {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        answer = compute(model, inputs, *args, **kwargs)
        loss = answer[0] if isinstance(answer, tuple) else answer
        if model.training and not torch.isfinite(loss).all():
            raise TrainingError(_explain(trainer, batch, float(loss.detach().float().mean()), data))
        return answer

    trainer.compute_loss = compute_loss


def _explain(trainer: Any, batch: dict[str, Any], loss: float, data: Path) -> str:
    texts = list(_texts(trainer, batch))
    rows = _rows(data, texts)
    spoiled = _spoiled(trainer.model)
    if spoiled:
        cause = f"the weights were spoiled before this batch: {len(spoiled)} of them are not finite, first {spoiled[0]}; " + (
            "lower learning_rate, raise warmup_share, or check the base model"
        )
    else:
        size, name = _largest(trainer.model)
        cause = f"the weights are finite, the largest {size:.3g} in {name}: look at the rows if that is usual, else lower learning_rate"
    where = f"step {trainer.state.global_step + 1} on process {trainer.args.process_index}"
    shown = "; ".join(repr(text[:80]) for text in texts[:SHOWN])
    return f"loss {loss} at {where}, in the batch of {', '.join(rows) or 'rows'} of {data}: {shown}: {cause}"


def _texts(trainer: Any, batch: dict[str, Any]) -> Iterator[str]:
    """The conversations of the batch in words; those packed into one row apart."""
    tokens, positions = batch.get("input_ids"), batch.get("position_ids")
    if tokens is None:
        return
    padding = trainer.processing_class.pad_token
    for i, row in enumerate(tokens.tolist()):
        starts = [0] if positions is None else [at for at, position in enumerate(positions[i].tolist()) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            text = trainer.processing_class.decode(row[start:end]).replace(padding or "\0", "")
            if text.strip():
                yield text


def _rows(data: Path, texts: Sequence[str]) -> list[str]:
    """`row 12 (id a7)` for every row of the file that stands in one of `texts`."""
    found = []
    with data.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            row = json.loads(line)
            said = list(_said(row))
            if said and any(all(part in text for part in said) for text in texts):
                found.append(f"row {number}" + (f" (id {row['id']})" if "id" in row else ""))
                if len(found) == SHOWN:
                    return [*found, "..."]
    return found


def _said(row: dict[str, Any]) -> Iterator[str]:
    """What a row puts into a batch: its text, or the contents of its turns."""
    for key in ("text", "messages", "prompt", "completion"):
        value = row.get(key)
        yield from [value] if isinstance(value, str) else [turn["content"] for turn in value or []]


def _largest(model: Any) -> tuple[float, str]:
    return max((float(weight.detach().abs().max()), name) for name, weight in model.named_parameters() if weight.numel())


def _spoiled(model: Any) -> list[str]:
    import torch

    return [name for name, weight in model.named_parameters() if weight.numel() and not torch.isfinite(weight).all()]
