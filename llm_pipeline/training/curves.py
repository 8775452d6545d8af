"""The loss of a run, step by step, as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_curve(points: Sequence[Mapping[str, Any]], label: str = "loss (nats per token)") -> Figure:
    """Loss and learning rate over the steps, from the progress messages of the worker."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(6, 3))
    loss = plot.add_subplot()
    steps = [point["step"] for point in points]
    loss.plot(steps, [point["loss"] for point in points], color="#1f5fbf", label="loss")
    loss.set(xlabel="step", ylabel=label)
    rate = loss.twinx()
    rate.plot(steps, [point["learning_rate"] for point in points], color="#b0b0b0", linewidth=1)
    rate.set_ylabel("learning rate")
    return plot
