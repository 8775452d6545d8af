"""The order of the rows: decided by seed and epoch alone, whatever the number of processes and wherever a run resumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler
from transformers import TrainerCallback


def permutation(rows: int, batch: int, seed: int, epoch: int) -> list[int]:
    """All rows, shuffled, and as many again from the start of the shuffle as fill the last step.

    Filling whole steps of `batch` rows (over all processes) keeps step k the same rows for any number of processes: a sharded
    loader left to itself fills up its last batches differently for each.
    """
    import torch

    order: list[int] = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    steps = -(-rows // batch)
    return (order * -(-steps * batch // rows))[: steps * batch]


class Order(Sampler[int]):
    """The rows of one epoch after the other."""

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        self.rows, self.batch, self.seed, self.epoch = rows, batch, seed, 0

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-self.rows // self.batch)

    def __len__(self) -> int:
        return self.steps * self.batch

    def __iter__(self) -> Iterator[int]:
        return iter(permutation(self.rows, self.batch, self.seed, self.epoch))

    def rows_of(self, step: int) -> list[int]:
        """The rows of a step, counted from 0 over all epochs."""
        start = step % self.steps * self.batch
        return permutation(self.rows, self.batch, self.seed, step // self.steps)[start : start + self.batch]


class Epochs(TrainerCallback):
    """Tells the order which epoch begins: Accelerate forgets it in a resumed epoch of several processes (1.15)."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.order.epoch = state.global_step // self.order.steps


def keep_order(trainer: Any, batch: int, seed: int) -> Order:
    """Make `trainer` read its rows in this order."""
    order = Order(len(trainer.train_dataset), batch, seed)
    trainer._get_train_sampler = lambda *_: order
    trainer.add_callback(Epochs(order))
    return order
