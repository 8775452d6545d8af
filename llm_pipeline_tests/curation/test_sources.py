"""Declarations of sources: the right to use them is required, names differ, and landing is the same on every rerun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm_pipeline.curation.connectors import land
from llm_pipeline.curation.python_docs import DocString
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.sources import DAYS, Source, load_sources, spread
from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.demo.sources import declare_sources, support_config
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.paths import DATA
from llm_pipeline.store import Home, table_hash

RIGHTS = {"licence": "CC0-1.0", "owner": "me", "consent": "mine"}


def test_the_shipped_declaration_loads() -> None:
    assert [source.name for source in load_sources(DATA / "sources.yaml")] == ["support", "python_docs"]


def test_a_users_sources_are_appended(tmp_path: Path) -> None:
    extra = tmp_path / "sources.yaml"
    extra.write_text("- {name: user, kind: files, uri: /data, licence: MIT, owner: me, consent: mine}\n")
    assert load_sources(DATA / "sources.yaml", extra)[-1] == Source("user", "files", "MIT", "me", "mine", "/data")
    assert len(load_sources(DATA / "sources.yaml", tmp_path / "missing.yaml")) == 2


def test_a_home_may_declare_a_shipped_source_differently(tmp_path: Path) -> None:
    declare_sources(Home(tmp_path), None, 23)
    assert [source.name for source in load_sources(DATA / "sources.yaml", tmp_path / "sources.yaml")] == ["support", "python_docs"]
    assert support_config(Home(tmp_path)) == replace(SupportConfig(), seed=23)
    declare_sources(Home(tmp_path), None, None)
    assert support_config(Home(tmp_path)) == SupportConfig()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("- {name: a, kind: files, uri: /x, owner: me, consent: mine}", "licence"),
        ("- {name: a, kind: files, uri: /x, licence: ' ', owner: me, consent: mine}", "licence is empty"),
        ("- {name: a, kind: files, licence: MIT, owner: me, consent: mine}", "needs a `uri`"),
        ("- {name: A-1, kind: files, uri: /x, licence: MIT, owner: me, consent: mine}", "lower-case"),
        ("- {name: a, kind: files, uri: /x, license: MIT, owner: me, consent: mine}", "did you mean 'licence'"),
        ("- &a {name: a, kind: files, uri: /x, licence: MIT, owner: me, consent: mine}\n- *a", "named twice: a"),
        ("name: a", "expected a list"),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, entry: str, message: str) -> None:
    extra = tmp_path / "sources.yaml"
    extra.write_text(entry)
    with pytest.raises(ConfigError, match=message):
        load_sources(DATA / "sources.yaml", extra)


def test_a_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_source(Source("user", "files", uri=str(tmp_path / "none"), **RIGHTS), Home(tmp_path), "2026-01-01")


def test_python_docs_are_spread_over_the_days_and_landed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = [DocString(f"module.f{i}", f"What f{i} does.", "module.py") for i in range(60)]
    monkeypatch.setattr("llm_pipeline.curation.python_docs.doc_strings", lambda: iter(docs))
    source, home = Source("python_docs", "python_docs", limit=50, **RIGHTS), Home(tmp_path)
    days = [f"2026-01-{n:02d}" for n in range(1, DAYS + 1)]
    tables = {day: read_source(source, home, day) for day in days}
    assert sum(table.num_rows for table in tables.values()) == 50
    assert all(spread(name) == day for day, table in tables.items() for name in table["external_id"].to_pylist())
    again = read_source(source, home, days[0])
    assert table_hash(again) == table_hash(tables[days[0]])
    assert read_source(source, home, "2026-02-01").num_rows == 0


def test_the_generator_source_has_stable_names_and_no_rows_outside_its_days(tmp_path: Path) -> None:
    source = Source("support", "generator", options={"documents_per_day": 50}, **RIGHTS)
    home = Home(tmp_path)
    rows = read_source(source, home, "2026-01-01")
    uris = rows["uri"].to_pylist()
    assert sum(uri.startswith("support://articles/") for uri in uris) > 5
    assert set(rows["retrieved_at"].to_pylist()) == {"2026-01-01T00:00:00+00:00"}
    assert table_hash(read_source(source, home, "2026-01-01")) == table_hash(rows)
    assert read_source(source, home, "2027-01-01").num_rows == 0
    with pytest.raises(ConfigError, match="did you mean 'documents_per_day'"):
        land(Source("support", "generator", options={"documents_per_dy": 50}, **RIGHTS), home, "2026-01-01")


def test_a_remote_uri_is_copied_once(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://corpus/a.txt", "w") as file:
        file.write("A remote text.")
    source = Source("user", "files", uri="memory://corpus", **RIGHTS)
    rows = read_source(source, Home(tmp_path), "2026-01-01")
    assert rows["content"].to_pylist() == [b"A remote text."]
