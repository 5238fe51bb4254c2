"""The program of a tool that measures sections, one after the other: what it prints, and how it ends."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from _bench.figures import progress
from _bench.machine import machine

__all__ = ["INTERRUPTED", "Sections", "measured"]

INTERRUPTED = 130

Sections = Mapping[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], None]]]
"""Each takes the options and gives a JSON object, which the other prints."""


def measured(tool: str, words: list[str], options: argparse.Namespace, sections: Sections) -> int:
    """Measure the sections that `options.only` names, and print each, or all as JSON; the exit code."""
    report: dict[str, Any] = {"command": shlex.join([tool, *words]), "machine": machine(options.folder)}
    if not options.json:
        print(f"$ {report['command']}")
        print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), flush=True)
    for name in options.only:
        measure, show = sections[name]
        try:
            report[name] = measure(options)
        except KeyboardInterrupt:
            progress(f"interrupted in {name}")
            return INTERRUPTED
        if not options.json:
            print()
            show(report[name])
            sys.stdout.flush()
    if options.json:
        print(json.dumps(report, indent=2))
    return 0
