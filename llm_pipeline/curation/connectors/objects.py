"""Files here or behind any URI that fsspec knows; of remote ones only what is new or changed is fetched."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from llm_pipeline.curation.connectors.landing import Landing, expanded
from llm_pipeline.curation.connectors.retry import PERMANENT, retrying
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.store import Home

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure"}
_VERSIONS = ("ETag", "etag", "md5", "md5Hash", "checksum", "generation", "LastModified", "last_modified", "mtime", "updated", "created")


def land(source: Source, home: Home, day: str) -> Path:
    return local_path(source, home)


def local_path(source: Source, home: Home) -> Path:
    """The files of a `files` source on this machine; those of a remote URI are brought to the landing folder, `options` to fsspec."""
    assert source.uri
    where = f"source {source.name!r}"
    uri = expanded(source.uri, f"{where}: uri")
    parts = urlsplit(uri)
    if parts.scheme and len(parts.scheme) > 1 and parts.scheme != "file":
        return _synchronised(uri, expanded(source.options, f"{where}: options"), Landing.of(source, home), where)
    path = Path(parts.path if parts.scheme == "file" else uri).expanduser().resolve()
    if not path.exists():
        raise InputError(f"{where}: uri {uri!r}: no such file or folder ({path})")
    return path


def _synchronised(uri: str, options: Mapping[str, Any], landing: Landing, where: str) -> Path:
    files, path = _open(uri, options, where)
    target = landing.root / (PurePosixPath(path).name or urlsplit(uri).netloc)
    with landing.lock():
        known: dict[str, Any] = landing.state()
        try:
            listed = retrying(lambda: _listed(files, path, uri), uri)
            for name, (full, version) in listed.items():
                if known.get(name, {}).get("version") != version or version is None or not (target / name).exists():
                    known[name] = {"version": version, "sha256": _fetched(files, full, landing)}
                    _place(landing.blob(known[name]["sha256"]), target / name)
                    landing.save(known)
            for name in known.keys() - listed.keys():
                (target / name).unlink(missing_ok=True)
            landing.save({name: known[name] for name in listed})
        except PERMANENT as error:
            raise InputError(f"{where}: uri {uri!r}: {type(error).__name__}: {error}") from error
        except Exception as error:
            if not known:
                raise InputError(f"{where}: uri {uri!r} cannot be reached: {type(error).__name__}: {error}") from error
            logging.getLogger(__name__).warning("%s: %s cannot be reached (%s); reading what was fetched before", where, uri, error)
    return target


def _open(uri: str, options: Mapping[str, Any], where: str) -> tuple[Any, str]:
    fsspec: Any = importlib.import_module("fsspec")
    scheme = urlsplit(uri).scheme
    try:
        files, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        hint = f"install the extra llm_pipeline[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else str(error)
        raise ConfigError(f"{where}: uri {uri!r}: no package for {scheme}:// is installed; {hint}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: uri {uri!r}: {error}") from error
    return files, str(path)


def _listed(files: Any, path: str, uri: str) -> dict[str, tuple[str, str | None]]:
    """(full name, version) of every object by its name below `path`, which is empty for `path` itself."""
    files.invalidate_cache()
    info = files.info(path)
    if info["type"] == "file" and not uri.endswith("/"):
        return {"": (path, _version(info))}
    base = path.rstrip("/")
    found = files.find(base if urlsplit(base).scheme else path, detail=True)
    return {_safe(full.removeprefix(base).lstrip("/")): (full, _version(info)) for full, info in sorted(found.items())}


def _version(info: Mapping[str, Any]) -> str | None:
    """What changes whenever the content does, as far as the store tells; None when it tells nothing."""
    told = {name: str(info[name]) for name in _VERSIONS if info.get(name)}
    return json.dumps([info.get("size"), told], sort_keys=True) if told else None


def _safe(name: str) -> str:
    """Object stores allow names that lead out of a folder; files do not."""
    return "/".join(part.replace(".", "%2E") if part in (".", "..") else part or "%20" for part in name.split("/"))


def _fetched(files: Any, full: str, landing: Landing) -> str:
    with landing.staging() as path:
        retrying(lambda: files.get_file(full, str(path)), full)
        return landing.keep(path)


def _place(blob: Path, target: Path) -> None:
    """A file that shares the content of the blob where the disk can do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    staging.unlink(missing_ok=True)
    try:
        os.link(blob, staging)
    except OSError:
        shutil.copy2(blob, staging)
    os.replace(staging, target)
