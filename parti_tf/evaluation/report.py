"""Figures for people, as a table, and for programs, as JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Gives a table as text: the first column flush left, the others flush right.

    Floats are shown with two digits, None as a dash.
    """
    cells = [list(header)] + [[_format_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(_align(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]


def write_json(path: str | os.PathLike, figures: dict[str, Any]) -> Path:
    """Writes figures as JSON, floats to four digits, and gives the path; the file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".unfinished")
    try:
        aside.write_text(json.dumps(_round(figures), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value
