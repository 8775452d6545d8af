"""YAML files into frozen dataclasses: an unknown or ill-typed key is an error that names the file and the near key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from llm_pipeline.errors import ConfigError, near

T = TypeVar("T")


class _Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml reads ten times as fast
    """YAML keeps the last of two equal keys without a word; here they are an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text("utf-8"), _Strict)
    except FileNotFoundError:
        here = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{near(path.name, here)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def load(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read `path` into the dataclass `cls`; `overrides` are `dotted.key=value` strings, their values parsed as YAML."""
    raw = load_yaml(path) or {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r}: expected key=value")
        *parents, leaf = key.split(".")
        target = raw
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = yaml.safe_load(value)
    return build(cls, raw, str(path))


def build(cls: type[T], raw: Any, where: str) -> T:
    """Build the dataclass `cls` from plain data; `where` names the file in errors."""
    _refuse_unknown_keys(cls, raw, where)
    try:
        return TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {at}: received {first['input']!r}, expected: {first['msg']}") from error


def _refuse_unknown_keys(cls: Any, raw: Any, where: str) -> None:
    if not (dataclasses.is_dataclass(cls) and isinstance(raw, Mapping)):
        return
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    for key, value in raw.items():
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}{near(str(key), names)}")
        for inner, items in _inside(hints[key], value):
            for item in items:
                _refuse_unknown_keys(inner, item, f"{where}: {key}")


def _inside(hint: Any, value: Any) -> list[tuple[Any, list[Any]]]:
    """The types inside a type hint, each with the parts of `value` that should be of it (`X | None`: the value itself)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [pair for inner in typing.get_args(hint) for pair in _inside(inner, value)]
    items = value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else []
    return [(hint, [value]), *((inner, items) for inner in typing.get_args(hint))]
