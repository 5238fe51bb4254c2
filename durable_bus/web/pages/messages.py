"""Messages between names, and one of them with its thread."""

from starlette.responses import Response

from durable_bus.errors import UsageError
from durable_bus.journal.admin.console import PAGE_ROWS
from durable_bus.web import drawings
from durable_bus.web.pages.look import Look

STATES = ("waiting", "delivered", "settled", "failed")


def messages(look: Look) -> Response:
    state, to_id = look.query("state"), look.query("to")
    if state is not None and state not in STATES:
        raise UsageError(f"no message has the state {state!r:.40}; there are: {', '.join(STATES)}")
    rows = look.reader.messages(before=look.number("before"), state=state, to_id=to_id)
    more = len(rows) > PAGE_ROWS
    rows = rows[:PAGE_ROWS]
    filters = {"state": state, "to": to_id}
    return look.render(
        "messages.html",
        rows=rows,
        filters=filters,
        states=STATES,
        names=look.reader.waiting_by_name() if look.at is None else [],
        older=look.url("messages", **filters, before=rows[-1]["message_seq"]) if more else None,
        first=look.number("before") is None,
    )


def message(look: Look) -> Response:
    row = look.reader.message(look.request.path_params["message_id"])
    thread = look.reader.thread(row["thread_id"])
    return look.render(
        "message.html",
        row=row,
        thread=thread,
        drawing=drawings.thread(thread, lambda message_id: look.url("messages", message_id)),
    )
