"""Configuration files: a repeated or unknown key is an error that names it, and every file that ships is readable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_pipeline.config import load, load_yaml
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import DATA, PROJECT, RECIPES


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ninner:\n  depth: 1\n  depth: 2\n")
    with pytest.raises(ConfigError, match=r"a\.yaml.*'depth' stands twice"):
        load_yaml(path)


def test_unknown_and_ill_typed_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ninner: {dept: 2}\n")
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        load(Outer, path)
    path.write_text("name: a\ninner: {depth: many}\n")
    with pytest.raises(ConfigError, match=r"inner\.depth: received 'many'"):
        load(Outer, path)


def test_overrides_reach_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n")
    assert load(Outer, path, ["inner.depth=3"]) == Outer("a", Inner(3))
    with pytest.raises(ConfigError, match="expected key=value"):
        load(Outer, path, ["inner.depth"])


@pytest.mark.parametrize(
    "path", sorted([*DATA.rglob("*.yaml"), *RECIPES.glob("*.yaml"), *PROJECT.glob("*.yaml")]), ids=lambda path: path.name
)
def test_what_ships_is_readable(path: Path) -> None:
    assert load_yaml(path)
