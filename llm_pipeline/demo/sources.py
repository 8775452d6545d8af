"""A user's own documents as a further source of the graph."""

from __future__ import annotations

from pathlib import Path

import yaml

from llm_pipeline.errors import InputError
from llm_pipeline.store import Home, write_atomically


def declare_user_source(home: Home, source: str | None) -> None:
    """Write `sources.yaml` into the home folder: one entry `user` for the path or URI, or none without one."""
    target = home.root / "sources.yaml"
    if source is None:
        target.unlink(missing_ok=True)
        return
    uri = source
    if "://" not in source:
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise InputError(f"SOURCE={source}: no such file or folder (looked at {path})")
        uri = str(path)
    entry = {
        "name": "user",
        "kind": "files",
        "uri": uri,
        "licence": "as granted to the user",
        "owner": "user",
        "consent": "provided by the user",
    }
    write_atomically(target, yaml.safe_dump([entry], sort_keys=False))
