"""The table of all modules in architecture.md, taken from the modules themselves."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, target: Path) -> None:
    """Write one row a module of both packages: its name, what its docstring says, its lines."""
    rows = [row(path, root) for path in modules(root)]
    head = ["| Module | What it is | Lines |", "|---|---|---:|"]
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join([*head, *rows, ""]))


def modules(root: Path) -> list[Path]:
    """Return the modules of both packages, `savers` first."""
    return [path for package in ("savers", "taskmanager") for path in files(root / package)]


def files(package: Path) -> list[Path]:
    """Return the modules of one package in the order of their names."""
    return sorted(package.rglob("*.py"))


def row(path: Path, root: Path) -> str:
    """Return the table row of one module."""
    text = path.read_text()
    summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")
    return f"| `{path.relative_to(root)}` | {summary} | {len(text.splitlines())} |"
