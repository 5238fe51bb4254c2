"""The text format: what is escaped, and how numbers are written."""

import pytest
from metrics_pages import promtool_says, read

from durable_bus.metrics.exposition import Family, Sample, histogram_samples, text

AWKWARD = ['say "hi"', "back\\slash", "two\nlines", '\\"\n', "\\n", "é, {a=b}", ""]


def test_labels_with_quotes_backslashes_and_newlines_come_through() -> None:
    samples = [Sample(1, {"listener": said, "outcome": "failed"}) for said in AWKWARD]
    page = text([Family("durable_bus_items_total", "counter", "Help.", samples)])
    assert len(page.splitlines()) == 2 + len(AWKWARD)
    assert [labels[1] for labels in read(page)] == AWKWARD
    assert promtool_says(page) == "0 "


def test_the_parser_of_prometheus_client_reads_them() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="there is no prometheus_client here")
    page = text([Family("x_total", "counter", "Help.", [Sample(1, {"listener": said}) for said in AWKWARD])])
    (family,) = parser.text_string_to_metric_families(page)
    assert [sample.labels["listener"] for sample in family.samples] == AWKWARD


def test_help_is_one_line() -> None:
    page = text([Family("x", "gauge", 'a "b"\\\nc', [Sample(0.5)])])
    assert page == '# HELP x a "b"\\\\\\nc\n# TYPE x gauge\nx 0.5\n'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (3.0, "3"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (10**17 + 1, "100000000000000001"),
        (2.5e17, "250000000000000000"),
    ],
)
def test_whole_numbers_have_no_fraction(value: float, written: str) -> None:
    assert text([Family("x", "gauge", "Help.", [Sample(value)])]).splitlines()[-1] == f"x {written}"


def test_a_histogram_ends_with_all_of_them() -> None:
    page = text([Family("x", "histogram", "Help.", histogram_samples([0.1, 1.0], [1, 3, 4], 5.5))])
    assert page.splitlines()[2:] == [
        'x_bucket{le="0.1"} 1',
        'x_bucket{le="1"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 5.5",
        "x_count 4",
    ]
