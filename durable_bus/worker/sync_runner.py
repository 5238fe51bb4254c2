"""Runs the items of sync handlers inside a worker, and turns what handlers return or raise into answers."""

import contextlib
import itertools
import json
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from durable_bus.app.bus import Listener
from durable_bus.app.outcomes import message_outcome, outcome_of, passed_on
from durable_bus.errors import ItemError, MalformedItem, UnserialisableAnswer, WorkerSilent, encodable, said
from durable_bus.payloads.messages import BufferError, HandlerResponse, Huh, SystemError
from durable_bus.payloads.packing import split, unpack
from durable_bus.payloads.xml import dumper, loader
from durable_bus.worker.handling import MessageHandling, metadata_of
from durable_bus.worker.replies import FLUSH_BYTES_MAX, Answers

__all__ = ["CURRENT", "LIMIT", "SINCE", "STARTED", "SyncRunner", "describe", "forms_of"]

STARTED, SINCE, LIMIT, CURRENT = 0, 1, 2, 3
"""The words of the slot, see `ports.Slot`."""
_FLUSH_NS = 95_000_000
"""More than a batch should take: it is mostly one frame and one commit, not one and a small rest."""
_TRACEBACK_CHARS_MAX = 4096

_OF_A_KIND = (MalformedItem, UnserialisableAnswer, WorkerSilent)
"""Errors of ours that a worker may report. A handler's own subclass is an exception like any other: its kind
may be one that the journal does not know.
"""
_NOT_PLAIN = (HandlerResponse, Huh, SystemError, BufferError)


def describe(error: BaseException) -> tuple[str, str, str]:
    """(kind, message, traceback) of what a handler raised, or of what could not be loaded or dumped, so that
    it can be sent. Never raises.
    """
    if isinstance(error, ItemError) and type(error) in _OF_A_KIND:
        return error.kind, said(error), ""
    message = f"{type(error).__name__}: {said(error)}".rstrip(": ")
    try:
        text = encodable("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except BaseException:
        text = ""  # an exception whose __str__, __cause__ or source lines raise again
    return "exception", message, text[-_TRACEBACK_CHARS_MAX:]


def forms_of(work: dict[str, Any], bodies: list[bytes], count: int) -> list[int]:
    return [work["form"]] * count if "form" in work else json.loads(bodies[1])


def _payloads(listener: Listener, work: dict[str, Any], body: bytes) -> tuple[Sequence[Any], bool]:
    """A dispatch's payloads, and whether they are as the handler takes them: text to str is decoded at once.

    What is done for an item finds the processor's caches cold when the one before has slept or waited: with
    this, and the look at short answers in `run`, items of 1 ms take a worker 25 us of processor time instead
    of 32 (8 workers on two cores).
    """
    if listener.annotation is str and work.get("form") == 0:
        with contextlib.suppress(UnicodeDecodeError):  # then only the item that it is about is malformed
            return unpack(body), True
    return split(body), False


class SyncRunner:
    """Runs the items of sync handlers, one at a time, on the main thread."""

    def __init__(self, words: "memoryview[int]", answers: Answers, messages: MessageHandling) -> None:
        self._words = words
        self._answers = answers
        self._messages = messages
        self._dumpers: dict[type, Callable[[Any], tuple[str, bool]]] = {}
        """How answers are written whose types say nothing about where they go or how it went: 0.13 us an item
        less than isinstance.
        """

    def _dumper_of(self, value: object) -> Callable[[Any], tuple[str, bool]] | None:
        if isinstance(value, _NOT_PLAIN):
            return None
        return self._dumpers.setdefault(type(value), dumper(type(value)))

    def run(self, listener: Listener, work: dict[str, Any], bodies: list[bytes]) -> None:
        """A dispatch. The hot path: what is here runs for every item."""
        if "message" in work:
            self._run_message(listener, work, bodies)
            return
        words, answers, dumpers = self._words, self._answers, self._dumpers
        handler, takes_metadata = listener.handler, listener.takes_metadata
        load_text, load_xml = loader(False, listener.annotation), loader(True, listener.annotation)
        payloads, is_loaded = _payloads(listener, work, bodies[0])
        forms = forms_of(work, bodies, len(payloads))
        first_index, first_ordinal = work["first"], work["ordinal"]
        index_from_ordinal = first_index - first_ordinal
        monotonic_ns = time.monotonic_ns
        segment = None
        bytes_added = 0
        begun_ns = monotonic_ns()
        flush_at_ns = begun_ns + _FLUSH_NS
        for ordinal, payload, form in zip(itertools.count(first_ordinal), payloads, forms, strict=False):
            # Say "started" before looking at the limit: the supervisor sets the limit before it looks at
            # "started", so that no item is both run here and given to somebody else.
            words[STARTED] = ordinal + 1
            if ordinal >= words[LIMIT]:
                words[STARTED] = ordinal
                answers.discard(ordinal, first_ordinal + len(payloads))
                break
            words[SINCE] = begun_ns
            try:
                if is_loaded:
                    argument = payload
                else:
                    argument = load_xml(payload) if form else load_text(payload)
                value = (
                    handler(argument, metadata_of(work, ordinal + index_from_ordinal))
                    if takes_metadata
                    else handler(argument)
                )
                found = None
                if type(value) is str and value[:1] not in "< " and len(value) < 1000 and value.isprintable():
                    text, is_xml, success = value, False, True  # all that `dump` would find out
                elif (dump := dumpers.get(type(value)) or self._dumper_of(value)) is not None:
                    text, is_xml = dump(value)
                    success = True
                else:
                    if isinstance(value, HandlerResponse):
                        found = passed_on(value)
                        value = value.payload
                    if found is None:
                        text, is_xml, success = outcome_of(value)
            except (
                BaseException
            ) as error:  # SystemExit and KeyboardInterrupt of a handler end its item, not the worker
                ended_ns = monotonic_ns()
                kind, message, trace = describe(error)
                index = ordinal + index_from_ordinal
                answers.add_failed(work, index, kind, message, trace, (ended_ns - begun_ns) // 1000)
                segment = None
                bytes_added += len(trace)
            else:
                ended_ns = monotonic_ns()
                if found is not None:
                    answers.add_outcome(work, ordinal + index_from_ordinal, *found)
                    segment = None
                    begun_ns = ended_ns
                    continue
                if segment is None or segment.is_xml is not is_xml or segment.success is not success:
                    segment = answers.segment(work, ordinal + index_from_ordinal, success, is_xml)
                segment.texts.append(text)
                segment.micros.append((ended_ns - begun_ns) // 1000)
                bytes_added += len(text)
            if ended_ns > flush_at_ns or bytes_added > FLUSH_BYTES_MAX:
                answers.flush()
                ended_ns = monotonic_ns()  # it may have waited for room in the pipe
                flush_at_ns = ended_ns + _FLUSH_NS
                bytes_added = 0
            begun_ns = ended_ns
        words[SINCE] = 0
        answers.flush()
        answers.idle()

    def _run_message(self, listener: Listener, work: dict[str, Any], bodies: list[bytes]) -> None:
        words, answers = self._words, self._answers
        ordinal = work["ordinal"]
        words[STARTED] = ordinal + 1
        if ordinal >= words[LIMIT]:
            words[STARTED] = ordinal
            answers.discard(ordinal, ordinal + 1)
        else:
            begun_ns = words[SINCE] = time.monotonic_ns()
            try:
                argument, metadata = self._messages.arguments(listener, work, bodies)
                outcome, body = message_outcome(listener.call(argument, metadata))
            except BaseException as error:
                kind, message, trace = describe(error)
                answers.add_failed(work, 0, kind, message, trace, (time.monotonic_ns() - begun_ns) // 1000)
            else:
                answers.add_outcome(work, 0, outcome, body)
            words[SINCE] = 0
        answers.flush()
        answers.idle()
