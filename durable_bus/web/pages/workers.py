"""Workers, and the limits under which they begin."""

from starlette.responses import Response

from durable_bus.cli.limits import limit_facts
from durable_bus.web.pages.look import Look


def workers(look: Look) -> Response:
    reader = look.reader
    limits = limit_facts(reader.reader) if look.at is None else reader.limits_then()
    return look.render(
        "workers.html",
        workers=look.supervisor.get("workers") if look.at is None else None,
        hands=reader.hands(),
        deaths=reader.deaths(),
        limits=limits,
        changes=reader.limit_changes(),
    )
