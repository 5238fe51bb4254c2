"""How the console shows values: numbers, times, durations and payloads, as text or as safe HTML."""

from datetime import UTC, datetime

import msgspec
from markupsafe import Markup

from durable_bus.cli.printing import amount, escaped, printable, rate
from durable_bus.cli.printing import duration as long_duration
from durable_bus.payloads.forms import FORM_NAMES

__all__ = ["FILTERS", "PAYLOAD_CHARS", "moment_ago"]

PAYLOAD_CHARS = 16_384
"""So much of a payload is on a page; all of it is a download."""
_JSON_CHARS_MAX = 8_192
"""What is longer is shown as it is, not indented."""


def number(value: float | None) -> str:
    return "—" if value is None else f"{value:,}"


def iso(time_ms: int) -> str:
    """UTC, as the views have it."""
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}Z"
    )


def exact(time_ms: int) -> str:
    return iso(time_ms).replace("T", " ").replace("Z", " UTC")


def moment_ago(time_ms: int | None, now_ms: int) -> Markup:
    """Such as `3 min ago`; the exact time is its title."""
    if time_ms is None:
        return Markup("—")
    seconds = (now_ms - time_ms) / 1000
    if abs(seconds) < 1:
        text = "now"
    else:
        text = f"in {_roughly(-seconds)}" if seconds < 0 else f"{_roughly(seconds)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso(time_ms), exact(time_ms), text)


def _roughly(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def took(micros: float | None) -> str:
    """A handler's time, such as `340 µs`, `12.3 ms`, `2.1 s`."""
    if micros is None:
        return "—"
    if micros < 1_000:
        return f"{micros:.0f} µs"
    if micros < 1_000_000:
        return f"{micros / 1000:.3g} ms" if micros < 999_500 else "1 s"
    return long_duration(micros / 1_000_000)


def between(begin_ms: int | None, end_ms: int | None) -> str:
    if begin_ms is None or end_ms is None:
        return "—"
    milliseconds = end_ms - begin_ms
    return f"{milliseconds} ms" if milliseconds < 1_000 else long_duration(milliseconds / 1000)


def form_name(form: int) -> str:
    return FORM_NAMES[form]


def one_line(text: str, chars: int = 120) -> str:
    """The beginning of a payload, on one line, with its control characters visible."""
    text = printable(" ".join(text[: 4 * chars].split()))
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def payload(text: str, form: int) -> str:
    """A payload as it is shown: JSON indented, control characters and changes of direction visible, the end
    of a long one left out.
    """
    if FORM_NAMES[form] == "json" and len(text) <= _JSON_CHARS_MAX:
        text = _indented(text)
    return escaped(text[:PAYLOAD_CHARS]).replace("\r", "\\u000d")


def _indented(text: str) -> str:
    """By its tokens: numbers keep the digits that they have."""
    try:
        return msgspec.json.format(text, indent=2)
    except (msgspec.MsgspecError, RecursionError):
        return text


FILTERS = {
    "n": number,
    "took": took,
    "between": between,
    "one_line": one_line,
    "line": printable,
    "payload": payload,
    "form": form_name,
    "amount": amount,
    "exact": exact,
    "seconds": long_duration,
    "escaped": escaped,
    "rate": rate,
}
