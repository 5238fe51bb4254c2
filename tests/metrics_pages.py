"""Pages of metrics as a reader sees them: samples by name and labels."""

import re
import shutil
import subprocess

import pytest

__all__ = ["Page", "promtool_says", "read"]

_SAMPLE = re.compile(r'(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (\S+)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\\n]|\\[\\"n])*)"')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Page = dict[tuple[str, ...], float]
"""By name and the values of the labels, in their order: `("durable_bus_items", "work", "waiting")`."""


def read(text: str) -> Page:
    """Each line is a comment or a sample, each sample is there once."""
    assert text.endswith("\n")
    page: Page = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        found = _SAMPLE.fullmatch(line)
        assert found is not None, line
        values = [
            re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], value)
            for _, value in _LABEL.findall(found[2] or "")
        ]
        key = (found[1], *values)
        assert key not in page, key
        page[key] = float(found[3])
    return page


def promtool_says(text: str) -> str:
    """What Prometheus's own tool has to complain of."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool here: Debian has it in the package prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    return f"{done.returncode} {done.stdout}{done.stderr}"
