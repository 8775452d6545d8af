"""How much each prompt token moved the answer's log-probability: integrated gradients, occlusion, contrast, and a test of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llm_pipeline.evaluation.explain.reading import Reader, Reading

BATCH = 16
_FIRST_STEPS = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Attribution:
    """Nats per prompt token; what is positive made the answer more likely than a prompt of blanks does."""

    scores: tuple[float, ...]
    by_answer_token: tuple[tuple[float, ...], ...]
    """Shape [answer, prompt]; its sum over the answer is `scores`."""
    full: float
    """The answer's log-probability after the prompt."""
    blank: float
    """The same after a prompt of blanks."""
    steps: int
    """The most steps that a run took."""

    @property
    def delta(self) -> float:
        """What completeness misses: the scores' sum less the difference they should explain (0 with infinitely many steps)."""
        return sum(self.scores) - (self.full - self.blank)


def integrated_gradients(
    reader: Reader, reading: Reading, most_steps: int = 64, progress: Progress | None = None, tolerance: float = 0.02
) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) on the embeddings, from blanks to the prompt, one run per answer token.

    Control tokens and the answer so far are the same at both ends of the path, so they get exactly nothing. The steps are doubled
    until the scores add up but for the share `tolerance`, which all runs may use up alike, at most to `most_steps`.
    """
    import torch
    from captum.attr import LayerIntegratedGradients  # type: ignore[import-untyped]

    rows, blanks = _rows(reader, reading)
    with torch.inference_mode():
        full, blank = reader.log_probabilities(torch.cat([rows, blanks]), reading.answer).tolist()
    method = LayerIntegratedGradients(lambda ids: reader.log_probabilities(ids, reading.answer), reader.model.get_input_embeddings())
    allowed = max(0.02, tolerance * abs(sum(full) - sum(blank)) / len(full))
    table, used = [], 0
    for position in range(len(reading.answer)):
        gap, steps = full[position] - blank[position], min(_FIRST_STEPS, most_steps)
        while True:
            found: Any = method.attribute(rows, blanks, target=position, n_steps=steps, internal_batch_size=BATCH)
            scores = found.sum(-1)[0, : len(reading.prompt)].tolist()
            if abs(sum(scores) - gap) <= allowed or steps >= most_steps:
                break
            steps = min(2 * steps, most_steps)
        used = max(used, steps)
        table.append(tuple(scores))
        if progress:
            progress(len(table), len(reading.answer))
    return Attribution(tuple(map(sum, zip(*table, strict=True))), tuple(table), sum(full), sum(blank), used)


def contrast(first: Attribution, second: Attribution) -> Attribution:
    """Why the first answer and not the second (Yin and Neubig 2022): the difference of two log-probabilities, by linearity."""
    scores = tuple(a - b for a, b in zip(first.scores, second.scores, strict=True))
    return Attribution(scores, (scores,), first.full - second.full, first.blank - second.blank, max(first.steps, second.steps))


def occlusion(reader: Reader, reading: Reading) -> tuple[float, ...]:
    """By how much the answer's log-probability falls when one token alone becomes a blank (Zeiler and Fergus 2014)."""
    import torch
    from captum.attr import FeatureAblation

    rows, blanks = _rows(reader, reading)
    mask = torch.tensor([_features(reading)])
    method = FeatureAblation(lambda ids: reader.log_probabilities(ids, reading.answer).sum(1))
    with torch.inference_mode():
        found: Any = method.attribute(rows, blanks, feature_mask=mask, perturbations_per_eval=BATCH)
    return tuple(found[0, : len(reading.prompt)].tolist())


def deletion(
    reader: Reader, reading: Reading, scores: Sequence[float], share: float = 0.15, repeats: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Are the scores faithful? The fall of the log-probability without the top tokens, beside that without as many random ones.

    Comprehensiveness by DeYoung et al. (2020), `share` of the tokens that may change.
    """
    import torch

    free = [i for i, fixed in enumerate(reading.fixed) if not fixed]
    number = max(1, round(share * len(free)))
    top = sorted(free, key=lambda i: -scores[i])[:number]
    rng = random.Random(seed)
    sets = [[], top, *(rng.sample(free, number) for _ in range(repeats))]
    rows, _ = _rows(reader, reading)
    batch = rows.repeat(len(sets), 1)
    for row, gone in zip(batch, sets, strict=True):
        row[gone] = reader.blank
    with torch.inference_mode():
        full, without, *others = reader.log_probabilities(batch, reading.answer).sum(1).tolist()
    return {"tokens": number, "of": len(free), "top": full - without, "random": full - sum(others) / len(others), "repeats": repeats}


def _rows(reader: Reader, reading: Reading) -> Any:
    """The row [prompt + answer[:-1]] of shape [1, tokens], and the same with blanks for every token that is not fixed."""
    import torch

    said = list(reading.answer[:-1])
    blank = [token if fixed else reader.blank for token, fixed in zip(reading.prompt, reading.fixed, strict=True)]
    return torch.tensor([[*reading.prompt, *said]]), torch.tensor([[*blank, *said]])


def _features(reading: Reading) -> list[int]:
    """One feature per free token, and a common one (0, which changes nothing) for all that is fixed."""
    numbers, found = iter(range(1, len(reading.prompt) + 1)), []
    for fixed in reading.fixed:
        found.append(0 if fixed else next(numbers))
    return [*found, *[0] * (len(reading.answer) - 1)]
