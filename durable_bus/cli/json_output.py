"""`--json`: what commands print for programs."""

from __future__ import annotations

import json
from typing import Any

import click

__all__ = ["buffer_row", "print_json"]


def buffer_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the view `buffers`, with its flags as JSON has them."""
    return {**row, "paused": bool(row["paused"]), "collect": bool(row["collect"])}


def print_json(facts: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
