"""All commits: when which supervisor ran, where it crashed, and what people have asked for."""

from starlette.responses import Response

from durable_bus.web import drawings
from durable_bus.web.pages.look import Look

_PARTS = 100


def times(look: Look) -> Response:
    reader, moment = look.reader, look.moment
    at = moment.commit if look.at is not None else None
    return look.render(
        "time.html",
        all_runs=look.runs,
        timeline=drawings.timeline(reader.density(_PARTS), look.runs, moment.oldest, moment.newest, at),
        by_hand=reader.by_hand(),
    )
