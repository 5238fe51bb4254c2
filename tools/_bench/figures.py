"""Figures: what is taken of many samples, and how it is said."""

import statistics
import sys
from collections.abc import Iterable
from typing import Any


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def of_rounds(values: list[float], digits: int) -> dict[str, Any]:
    """What every round gave, in order, and the median."""
    return {
        "rounds": [round(value, digits) for value in values],
        "median": round(statistics.median(values), digits),
    }


def paired(above: list[float], below: list[float]) -> dict[str, Any]:
    """The ratio within each round: noise of the machine hits both sides."""
    return of_rounds([one / other for one, other in zip(above, below, strict=True)], 3)


def percentiles(samples_s: Iterable[float]) -> dict[str, Any]:
    """The nearest-rank 50th and 99th percentile and the longest, in ms, of at least one sample in seconds."""
    ordered = sorted(sample_s * 1000 for sample_s in samples_s)
    rank_99 = -(-99 * len(ordered) // 100) - 1
    return {
        "samples": len(ordered),
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[rank_99], 2),
        "max_ms": round(ordered[-1], 2),
    }


def show_percentiles(label: str, measured: dict[str, Any]) -> None:
    p50_ms, p99_ms, max_ms = (measured[name] for name in ("p50_ms", "p99_ms", "max_ms"))
    print(f"    {label:44}p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, longest {max_ms:.2f} ms")
