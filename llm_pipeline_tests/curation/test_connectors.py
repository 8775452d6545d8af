"""Sources behind a network or in a database: only what is new is fetched, and what was fetched is read again without them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from llm_pipeline.curation.connectors import retry, sql
from llm_pipeline.curation.connectors.landing import DayFiles, Landing
from llm_pipeline.curation.connectors.retry import retrying
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.sources import Source, load_sources
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.store import Home, table_hash

RIGHTS = {"licence": "CC0-1.0", "owner": "me", "consent": "mine"}
DAY, NEXT = "2026-01-01", "2026-01-02"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "pause", lambda _: None)


def _texts(source: Source, home: Home, day: str = DAY) -> list[str]:
    documents, _ = normalise(read_source(source, home, day), day)
    return sorted(documents["text"].to_pylist())


# databases


ROWS = [(1, DAY, "The first row."), (2, DAY, "The second row."), (3, NEXT, "A row of the next day.")]


def _database(url: str, rows: list[tuple[int, str, str]]) -> None:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table if not exists notes (id integer primary key, written date, body text)"))
        for row in rows:
            connection.execute(
                sqlalchemy.text("insert into notes values (:id, :written, :body)"), dict(zip(("id", "written", "body"), row, strict=True))
            )
    engine.dispose()


def _sql_source(**options: Any) -> Source:
    query = "select id, written, body from notes where id > :watermark order by id"
    return Source("notes", "sql", uri="${TEST_DATABASE}", options={"query": query, "watermark": "id", "start": 0, **options}, **RIGHTS)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    url = f"sqlite:///{tmp_path / 'notes.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")
    monkeypatch.setenv("TEST_DATABASE", url)
    _database(url, ROWS)
    yield url
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("drop table notes"))
    engine.dispose()


def test_a_query_goes_on_from_its_watermark_and_rows_go_to_their_days(database: str, tmp_path: Path) -> None:
    source, home = _sql_source(day="written"), Home(tmp_path / "home")
    assert _texts(source, home) == ["The first row.", "The second row."]
    first = read_source(source, home, DAY)
    assert first["uri"].to_pylist() == ["notes://1", "notes://2"]
    _database(database, [(4, NEXT, "A late row."), (5, "2019-01-01", "An old row.")])
    assert table_hash(read_source(source, home, DAY)) == table_hash(first)
    assert _texts(source, home, NEXT) == ["A late row.", "A row of the next day."]
    assert _texts(source, home) == ["An old row.", "The first row.", "The second row."]


def test_without_dates_rows_belong_to_the_day_that_they_were_fetched_for(database: str, tmp_path: Path) -> None:
    source, home = _sql_source(), Home(tmp_path / "home")
    assert len(_texts(source, home)) == 3
    _database(database, [(4, NEXT, "A new row.")])
    assert _texts(source, home, NEXT) == ["A new row."]
    assert len(_texts(source, home)) == 3


def test_watermarks_keep_their_type() -> None:
    from datetime import UTC, date, datetime
    from decimal import Decimal

    for mark in (3, 2.5, "2026-01-01", date(2026, 1, 1), datetime(2026, 1, 1, 3, tzinfo=UTC), Decimal("1.10")):
        assert sql._unpacked(json.loads(json.dumps(sql._packed(mark)))) == mark


def test_a_wrong_query_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE", f"sqlite:///{tmp_path / 'notes.db'}")
    _database(f"sqlite:///{tmp_path / 'notes.db'}", ROWS)
    with pytest.raises(InputError, match="no such table"):
        read_source(_sql_source(query="select * from nowhere where id > :watermark"), Home(tmp_path), DAY)
    with pytest.raises(ConfigError, match="no column written_at; the query gives id, written, body"):
        read_source(_sql_source(day="written_at"), Home(tmp_path), DAY)


# datasets


def _dataset(folder: Path, texts: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"id": i, "text": text, "at": NEXT if i else DAY} for i, text in enumerate(texts)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_dataset_is_landed_once_by_days_and_again_when_it_changed(tmp_path: Path) -> None:
    folder, home = tmp_path / "set", Home(tmp_path / "home")
    _dataset(folder, ["The first.", "The second.", "The third."])
    source = Source("set", "huggingface", uri=str(folder), options={"day": "at", "columns": ["text"]}, **RIGHTS)
    assert (_texts(source, home), _texts(source, home, NEXT)) == (["The first."], ["The second.", "The third."])
    assert read_source(source, home, DAY)["uri"].to_pylist() == ["set://train/0"]
    _dataset(folder, ["The first, changed."])
    assert (_texts(source, home), _texts(source, home, NEXT)) == (["The first, changed."], [])
    limited = Source("limited", "huggingface", uri=str(folder), limit=0, **RIGHTS)
    assert _texts(limited, home) == []


def test_a_saved_dataset_and_a_missing_split(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"text": "A saved row."}]).save_to_disk(str(tmp_path / "saved"))
    assert _texts(Source("saved", "huggingface", uri=str(tmp_path / "saved"), **RIGHTS), Home(tmp_path)) == ["A saved row."]
    _dataset(tmp_path / "set", ["The first."])
    with pytest.raises(InputError, match="dataset"):
        read_source(Source("set", "huggingface", uri=str(tmp_path / "set"), options={"split": "none"}, **RIGHTS), Home(tmp_path), DAY)


# our own interactions


def _interaction(identity: str, **more: Any) -> dict[str, Any]:
    row = {
        "id": identity,
        "received_at": f"{DAY}T10:00:00+00:00",
        "release": "r",
        "key": "app",
        "messages": [{"role": "user", "content": f"What is {identity}?"}],
        "answer": "It is this.",
        "finish_reason": "stop",
        "passages": [],
        "usage": {},
        "seconds": {},
        "guardrails": [],
    }
    return row | more


def test_only_agreed_interactions_are_learnt_from(tmp_path: Path) -> None:
    home = Home(tmp_path)
    rows = [
        _interaction("a"),
        _interaction("b", key="other"),
        _interaction("c", key="other", user="willing"),
        _interaction("d", guardrails=["toxicity"]),
        _interaction("e", received_at=f"{NEXT}T10:00:00+00:00"),
    ]
    (home.endpoint / "interactions").mkdir(parents=True)
    (home.endpoint / "interactions" / "1-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def asked(**options: Any) -> list[str]:
        source = Source("ours", "interactions", options=options, **RIGHTS)
        return [uri.removeprefix("ours://") for uri in read_source(source, home, DAY)["uri"].to_pylist()]

    assert asked(keys=["app"], users=["willing"]) == ["a", "c"]
    assert asked() == []
    source = Source("ours", "interactions", options={"keys": ["app"]}, **RIGHTS)
    assert _texts(source, home) == ["Customer: What is a?\nAgent: It is this."]
    written = home.landing / "ours" / DAY / "interactions.jsonl"
    os.utime(written, (1e9, 1e9))
    assert table_hash(read_source(source, home, DAY)) == table_hash(read_source(source, home, DAY))
    assert written.stat().st_mtime == 1e9


# what they share


def test_only_what_may_be_an_accident_is_tried_again() -> None:
    def failing(times: int, error: Exception) -> Callable[[], int]:
        left = [error] * times

        def action() -> int:
            if left:
                raise left.pop()
            return times

        return action

    assert retrying(failing(retry.TRIES - 1, ConnectionError("away")), "x") == retry.TRIES - 1
    with pytest.raises(ConnectionError):
        retrying(failing(retry.TRIES, ConnectionError("away")), "x")
    with pytest.raises(FileNotFoundError):
        retrying(failing(1, FileNotFoundError()), "x")


def test_days_appear_together_or_not_at_all(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "landing")

    def write(fail: bool) -> None:
        with DayFiles(landing, "rows") as files:
            files.write(DAY, {"text": "x"})
            files.write(NEXT, {"text": "y"})
            if fail:
                raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write(fail=True)
    assert list(landing.root.iterdir()) == []
    write(fail=False)
    found = sorted(str(path.relative_to(landing.root)) for path in landing.root.rglob("*.jsonl"))
    assert found == [f"{DAY}/rows.jsonl", f"{NEXT}/rows.jsonl"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: a, kind: sql, uri: '${URL}', options: {query: 'select 1', wathermark: id}}", "did you mean 'watermark'"),
        ("{name: a, kind: sql, uri: '${URL}', options: {query: 'select :watermark'}}", "go together"),
        ("{name: a, kind: sql, uri: 'postgresql://me:secret@host/db', options: {query: 'select 1'}}", "holds a password"),
        ("{name: a, kind: sql, options: {query: 'select 1'}}", "needs a `uri`"),
        ("{name: a, kind: web, uri: 'http://x/', options: {pause: soon}}", "pause"),
        ("{name: a, kind: ftp, uri: 'http://x/'}", "kind"),
    ],
)
def test_a_wrong_connector_is_refused_when_it_is_declared(tmp_path: Path, entry: str, message: str) -> None:
    extra = tmp_path / "sources.yaml"
    extra.write_text(f"- {entry[:-1]}, licence: MIT, owner: me, consent: mine}}\n")
    with pytest.raises(ConfigError, match=message):
        load_sources(extra)
