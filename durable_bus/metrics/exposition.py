"""The text format of Prometheus, version 0.0.4.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/. Everything reads this version. The
textfile collector of node_exporter does not read OpenMetrics. And there the gauge `durable_bus_items` and the
counter `durable_bus_items_total` would be one name, because it takes `_total` for a suffix.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "Sample", "histogram_samples", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What a page is served as."""


class Sample(NamedTuple):
    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""
    """Behind the name of the family: `_bucket`, `_sum` or `_count` of a histogram."""


class Family(NamedTuple):
    """All samples of one name. One without samples is told, too: what it means, and that there are none."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[Sample]


def text(families: Iterable[Family]) -> str:
    """A whole page."""
    return "".join(line for family in families for line in _lines(family))


def histogram_samples(bounds: Iterable[float], cumulative: Sequence[int], total: float) -> list[Sample]:
    """`cumulative`: how many values are up to each bound, and at last, all of them. `total`: their sum."""
    les = [*map(_number, bounds), "+Inf"]
    buckets = [Sample(n, {"le": le}, "_bucket") for le, n in zip(les, cumulative, strict=True)]
    return [*buckets, Sample(total, suffix="_sum"), Sample(cumulative[-1], suffix="_count")]


def _lines(family: Family) -> Iterable[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for value, labels, suffix in family.samples:
        pairs = ",".join(f'{name}="{_escaped(label, quotes=True)}"' for name, label in labels.items())
        braces = f"{{{pairs}}}" if pairs else ""
        yield f"{family.name}{suffix}{braces} {_number(value)}\n"


def _escaped(said: str, *, quotes: bool = False) -> str:
    said = said.replace("\\", "\\\\").replace("\n", "\\n")
    return said.replace('"', '\\"') if quotes else said


def _number(value: float) -> str:
    """Whole numbers without a fraction, however big."""
    return str(int(value)) if value == int(value) else repr(float(value))
