"""The sources of one home folder: a user's own documents, and the bank under another seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llm_pipeline.config import load_yaml
from llm_pipeline.curation.sources import generator_config, load_sources
from llm_pipeline.errors import InputError
from llm_pipeline.paths import DATA
from llm_pipeline.store import Home, write_atomically

if TYPE_CHECKING:
    from llm_pipeline.curation.support.bank import SupportConfig


def declare_sources(home: Home, source: str | None, seed: int | None) -> None:
    """Write the home folder's `sources.yaml`: an entry `user` for the path or URI, and `support` with its seed; no file without either."""
    entries = [*([_user(source)] if source else []), *([_support(seed)] if seed is not None else [])]
    target = home.root / "sources.yaml"
    if entries:
        write_atomically(target, yaml.safe_dump(entries, sort_keys=False))
    else:
        target.unlink(missing_ok=True)


def support_config(home: Home) -> SupportConfig:
    """The bank of this home folder."""
    sources = load_sources(DATA / "sources.yaml", home.root / "sources.yaml")
    return generator_config(next(source for source in sources if source.name == "support"))


def _support(seed: int) -> dict[str, Any]:
    declared = next(entry for entry in load_yaml(DATA / "sources.yaml") if entry["name"] == "support")
    return declared | {"options": declared.get("options", {}) | {"seed": seed}}


def _user(source: str) -> dict[str, str]:
    uri = source
    if "://" not in source:
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise InputError(f"SOURCE={source}: no such file or folder (looked at {path})")
        uri = str(path)
    return {
        "name": "user",
        "kind": "files",
        "uri": uri,
        "licence": "as granted to the user",
        "owner": "user",
        "consent": "provided by the user",
    }
