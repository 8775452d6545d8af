"""What the gate asks of a challenger, as typed settings that a YAML file may hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite

from llm_pipeline.errors import ConfigError, near

_USUALLY_LOW = re.compile(r"perplex|loss|nll|latenc|second|toxic|error|leak|cost|brier")


@dataclass(frozen=True)
class GatePolicy:
    """What a challenger must show; metrics go by their full name (suite/mode/metric) or by its end, such as `em`."""

    primary: str = ""
    """The metric that must get better; empty: any of them may."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """How much a guard may lose, in its own units. On the primary: a gain that is surely smaller is no reason to promote."""
    margin: float = 0.02
    """The same for guards not named in `margins`: absolute for scores from -1 to 1, else a share of the champion's mean size."""
    lower_is_better: tuple[str, ...] = ()
    report_only: tuple[str, ...] = ()
    """Metrics that are shown and have no say."""
    alpha: float = 0.025
    """Chance of promoting a challenger that is not better; intervals are two-sided at 1 - 2 alpha."""
    alpha_reject: float = 0.05
    """Chance of rejecting, for a loss, a challenger that lost nothing."""
    minimum_pairs: int = 30

    def __post_init__(self) -> None:
        for name, value in (*self.margins.items(), ("margin", self.margin)):
            if not (value >= 0 and isfinite(value)):
                raise ConfigError(f"margin of {name!r}: expected 0 or more, received {value}")
        for name, value in (("alpha", self.alpha), ("alpha_reject", self.alpha_reject)):
            if not 0 < value < 0.5:
                raise ConfigError(f"{name}: expected a chance between 0 and 0.5, received {value}")
        if self.minimum_pairs < 6:
            raise ConfigError(f"minimum_pairs: expected 6 or more (fewer show nothing at any level), received {self.minimum_pairs}")

    def without(self, gone: Collection[str], left: Collection[str]) -> GatePolicy:
        """The same policy when the metrics `gone` are not compared: names that mean only those are dropped, but for the primary."""

        def stays(name: str) -> bool:
            return bool(_meant(name, left)) or not _meant(name, gone)

        return replace(
            self,
            margins={name: margin for name, margin in self.margins.items() if stays(name)},
            lower_is_better=tuple(filter(stays, self.lower_is_better)),
            report_only=tuple(filter(stays, self.report_only)),
        )


def matching(name: str, metrics: Iterable[str]) -> list[str]:
    """The metrics that `name` means: the one of that full name, else all that end in it; an unknown name is an error."""
    known = list(metrics)
    if not (found := _meant(name, known)):
        raise ConfigError(f"no scores of the metric {name!r}{near(name, known)}")
    return found


def _meant(name: str, metrics: Collection[str]) -> list[str]:
    return [metric for metric in metrics if metric == name] or [metric for metric in metrics if metric.endswith(f"/{name}")]


def doubtful(metric: str, lower: Collection[str]) -> bool:
    """Whether a metric that nobody declared is named like those of which less is better."""
    return metric not in lower and bool(_USUALLY_LOW.search(metric.rpartition("/")[2].lower()))
