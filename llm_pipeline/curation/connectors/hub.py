"""Datasets of the Hugging Face hub, or in a folder of the same form, by the `datasets` library; streamed, and never with their own code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.curation.connectors.landing import DayFiles, Landing, day_of, expanded
from llm_pipeline.curation.connectors.retry import PERMANENT, retrying
from llm_pipeline.curation.sources import FIRST_DAY, Source
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home, content_hash, file_hash


@dataclass(frozen=True)
class HubOptions:
    """Which part of a dataset; `uri` of the source is its id on the hub or its local path."""

    split: str = "train"
    config: str | None = None
    revision: str | None = None
    """A commit, so that a rerun on an empty home reads the same."""
    columns: tuple[str, ...] = ()
    """Empty means all."""
    day: str | None = None
    """The column with the date of a row; without it all rows belong to the first day."""


def land(source: Source, home: Home, day: str) -> Path:
    """Bring a revision of the dataset here once, by days; a local one again when its files changed."""
    where = f"source {source.name!r}"
    options = build(HubOptions, dict(source.options), f"{where}: options")
    assert source.uri
    uri = expanded(source.uri, f"{where}: uri")
    landing = Landing.of(source, home)
    wanted = content_hash(uri, repr(options), source.limit, file_hash(Path(uri)) if Path(uri).exists() else None)
    with landing.lock():
        if landing.state().get("landed") != wanted:
            try:
                retrying(lambda: _fetch(uri, options, source, landing), where)
            except PERMANENT as error:
                raise InputError(f"{where}: dataset {uri!r}: {type(error).__name__}: {str(error).splitlines()[0]}") from error
            landing.save({"landed": wanted})
    return landing.root / day


def _fetch(uri: str, options: HubOptions, source: Source, landing: Landing) -> None:
    for old in landing.root.glob(f"*/{options.split}.jsonl"):
        old.unlink()
    with DayFiles(landing, options.split) as files:
        for number, row in enumerate(_rows(uri, options)):
            if number == source.limit:
                break
            kept = {name: row[name] for name in options.columns} if options.columns else row
            name = f"{source.name}://{options.split}/{row.get('id', number)}"
            files.write(day_of(row.get(options.day), FIRST_DAY) if options.day else FIRST_DAY, {"uri": name, **kept})


def _rows(uri: str, options: HubOptions) -> Iterable[Mapping[str, Any]]:
    import datasets

    if (Path(uri) / "dataset_dict.json").exists() or (Path(uri) / "state.json").exists():
        saved = datasets.load_from_disk(uri)
        return iter(saved[options.split] if isinstance(saved, datasets.DatasetDict) else saved)
    return iter(datasets.load_dataset(uri, options.config, split=options.split, revision=options.revision, streaming=True))
