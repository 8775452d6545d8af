"""Where the files that ship with the project are."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "data"
RECIPES = Path(__file__).resolve().parent / "recipes"
