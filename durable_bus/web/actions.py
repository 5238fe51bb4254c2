"""What a person does by a form: each as a client of the daemon, as the commands of the same names do it.

The guard has looked at the form. Whatever comes of it, the browser is sent back to the page of the form,
which says it once. An action that has been sent to the daemon is carried out also when the browser goes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from durable_bus import __version__
from durable_bus.client.client import Client
from durable_bus.errors import DurableBusError, MessageRefused, NotFound, VersionMismatch, one_line
from durable_bus.journal.patterns import message_pattern
from durable_bus.journal.reader import JournalReader
from durable_bus.web.addresses import local_path, with_parameter
from durable_bus.web.fields import Fields

__all__ = ["AT_ONCE_MAX", "other_version", "routes"]

AT_ONCE_MAX: Final = 8
"""A daemon that is busy is waited for. Pages are made by other threads."""


class _Asked(NamedTuple):
    """An action: of which journal, what its path names, and what its form says."""

    journal: Path
    name: str
    fields: Fields

    def client(self, name: str | None = None) -> Client:
        return Client(self.journal, name=name)


Action: TypeAlias = Callable[[_Asked], str]
"""Does it, and says in a line what has come of it. Raises a DurableBusError."""


def other_version(reader: JournalReader) -> str | None:
    """Which version has served the journal last, if that is not ours: then the console only looks at it."""
    version = (reader.row("newest_run_version") or {}).get("version", __version__)
    return None if version == __version__ else str(version)


def _endpoint(action: Action) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        (name,) = request.path_params.values() or ("",)
        fields = Fields(request.state.form)
        asked = _Asked(request.app.state.journal, name, fields)
        limiter: CapacityLimiter = request.app.state.acting
        text, failed = await to_thread.run_sync(_done, action, asked, abandon_on_cancel=True, limiter=limiter)
        notice_id = request.app.state.notices.put(text, failed=failed)
        back = with_parameter(local_path(fields.one("back")), "notice", notice_id)
        return Response(status_code=303, headers={"Location": back})

    return answer


def _done(action: Action, asked: _Asked) -> tuple[str, bool]:
    """What there is to say of it, and whether it has failed."""
    try:
        with JournalReader(asked.journal) as reader:
            version = other_version(reader)
        if version is not None:
            raise VersionMismatch(
                f"durable_bus {version} serves this journal, and this console is {__version__}: start the "
                "console anew, of the same version"
            )
        return action(asked), False
    except DurableBusError as error:
        return one_line(str(error)), True


# Buffers


def _cancel(asked: _Asked) -> str:
    with asked.client() as client:
        return f"{asked.name} is {client.cancel(asked.name)}"


def _pause(asked: _Asked) -> str:
    with asked.client() as client:
        state = client.pause(asked.name)
    return f"{asked.name} is {'paused' if state == 'open' else state}"


def _resume(asked: _Asked) -> str:
    budget = asked.fields.amounts("budget")
    with asked.client() as client:
        return f"{asked.name} is {client.resume(asked.name, budget=budget)}"


def _retry(asked: _Asked) -> str:
    with asked.client() as client:
        buffer = client.retry(asked.name)
        return _started(buffer.buffer_id, buffer.existed)


def _retry_matching(asked: _Asked) -> str:
    """Of failed items only: what is missing has not failed by anything."""
    kind, pattern = asked.fields.one("kind"), asked.fields.one("pattern")
    with asked.client() as client:
        reader = client.reader()
        indexes = [
            index
            for index, its_kind, message in reader.failed_items(reader.buffer_seq(asked.name))
            if its_kind == kind and message_pattern(message) == pattern
        ]
        if not indexes:
            raise NotFound(f"no item of {asked.name} has failed like this: {kind}: {pattern}")
        buffer = client.retry(asked.name, indexes=indexes)
        return f"{_started(buffer.buffer_id, buffer.existed)}, with {_count(len(indexes), 'item')}"


def _started(buffer_id: str, existed: bool) -> str:
    return f"{buffer_id} was started before" if existed else f"{buffer_id} has started"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# Limits, messages, the journal


def _set_limit(asked: _Asked) -> str:
    fields = asked.fields
    with asked.client() as client:
        limit = client.set_limit(
            asked.name,
            rate=fields.one("rate") or None,
            running=fields.number("running"),
            reset=fields.has("reset"),
        )
    rate = limit.rate or "any rate"
    running = "any number" if limit.running is None else f"{limit.running:,}"
    return f"{limit.name}: {rate}, {running} at once, {'set by hand' if limit.by_hand else 'as the app says'}"


def _respond(asked: _Asked) -> str:
    payload = asked.fields.text("payload")
    with _receiver(asked) as client:
        client.respond(asked.name, payload)
    return f"message {asked.name} is answered"


def _acknowledge(asked: _Asked) -> str:
    with _receiver(asked) as client:
        client.acknowledge(asked.name)
    return f"message {asked.name} is acknowledged"


def _receiver(asked: _Asked) -> Client:
    """A client with the name that the message went to: only such a one may settle it. It receives nothing, so
    that whoever waits for messages to this name gets them all the same.
    """
    with JournalReader(asked.journal) as reader:
        row = reader.row("mailbox_of_message", message_id=asked.name)
    if row is None:
        raise NotFound(f"no message {asked.name!r:.120} in {asked.journal}")
    if not row["is_mailbox"]:
        raise MessageRefused(f"message {asked.name} is for {row['to_id']}, which is no client's mailbox")
    return asked.client(row["to_id"])


def _prune(asked: _Asked) -> str:
    before_ms = asked.fields.before_ms("older_than")
    with asked.client() as client:
        return f"{_count(client.prune(before_ms), 'buffer')} pruned"


_ACTIONS: Final[dict[str, Action]] = {
    "/buffers/{buffer_id}/cancel": _cancel,
    "/buffers/{buffer_id}/pause": _pause,
    "/buffers/{buffer_id}/resume": _resume,
    "/buffers/{buffer_id}/retry": _retry,
    "/buffers/{buffer_id}/retry-matching": _retry_matching,
    "/limits/{name}": _set_limit,
    "/messages/{message_id:path}/respond": _respond,
    "/messages/{message_id:path}/acknowledge": _acknowledge,
    "/prune": _prune,
}

routes: Final = [Route(path, _endpoint(action), methods=["POST"]) for path, action in _ACTIONS.items()]
