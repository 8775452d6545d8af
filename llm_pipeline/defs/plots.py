"""Matplotlib figures as images inside asset metadata."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(fig: Figure, dpi: int = 90) -> dg.MarkdownMetadataValue:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")
