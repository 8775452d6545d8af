"""Every error that the library raises on purpose; each says what was received, what was expected, and where.

PipelineError
|-- ConfigError        a recipe, policy or source declaration is wrong
|-- InputError         data from outside cannot be used
|-- MissingError       a table, partition or artefact that a step needs does not exist
|-- ContractError      data that we made breaks its contract
|-- TrainingError      a training process failed; `retryable` when a rerun resumes it
|-- EndpointError      the endpoint did not do what its desired state says
`-- StoppedError       a signal asked to stop; the same command goes on from there
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(PipelineError):
    """A recipe, policy or source declaration is wrong."""


class InputError(PipelineError):
    """Data from outside cannot be used."""


class MissingError(PipelineError):
    """A table, partition or artefact that a step needs does not exist."""


class ContractError(PipelineError):
    """Data that the pipeline made breaks its contract."""


class TrainingError(PipelineError):
    """A training process failed."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EndpointError(PipelineError):
    """The endpoint did not do what its desired state says."""


class StoppedError(PipelineError):
    """A signal asked to stop; the same command goes on from there."""


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known names when none is close: the end of a message about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names) or 'none'}"
