"""The documentation strings of the running interpreter's standard library: real prose that every machine has."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SKIPPED_FOLDERS = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__"}


@dataclass(frozen=True)
class DocString:
    """The documentation of one public module, class or function, named as one would import it."""

    name: str
    text: str
    path: str


def doc_strings(minimum_characters: int = 200) -> Iterator[DocString]:
    """Read from source, never imported: modules of the standard library in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS & set(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        for name, node in _documented(tree, module):
            text = ast.get_docstring(node)
            if text and len(text) >= minimum_characters:
                yield DocString(name, text, str(relative))


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]]:
    yield module, tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{module}.{node.name}", node
            for child in getattr(node, "body", []):
                if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                    yield f"{module}.{node.name}.{child.name}", child
