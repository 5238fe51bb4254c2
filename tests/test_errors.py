"""The errors: one tree, an exit code each, one line each."""

from __future__ import annotations

import copy
import inspect
import pickle
import signal

import pytest

from durable_bus import errors
from durable_bus.errors import DurableBusError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, DurableBusError)]
EXIT_CODES = {
    2: "UsageError BusNotImportable BufferError MessageRefused VersionMismatch LimitExceeded InsideHandler "
    "UnsupportedPlatform OtherItems",
    3: "NotFound",
    4: "Interrupted SupervisorLost",
    5: "JournalError JournalLocked NotAJournal JournalTooNew JournalDamaged JournalUnreachable StorageFailed "
    "StorageFull",
    6: "TimedOut",
}


@pytest.mark.parametrize(("code", "names"), EXIT_CODES.items())
def test_every_error_has_the_exit_code_of_the_contract(code: int, names: str) -> None:
    for name in names.split():
        assert getattr(errors, name).exit_code == code


def test_the_tree_in_the_docstring_names_every_class() -> None:
    for error_class in CLASSES:
        assert error_class.__name__ in (errors.__doc__ or "")


def test_every_class_says_what_it_means_and_that_is_its_message() -> None:
    for error_class in CLASSES:
        assert error_class.__doc__
        if "__init__" not in vars(error_class) and not issubclass(error_class, errors.BufferError):
            assert str(error_class()) == error_class.__doc__.partition("\n")[0]


def test_a_message_is_one_line_and_has_an_end() -> None:
    assert str(errors.UsageError("a\nb\r\n\tc\u2028d")) == "a b c d"
    assert len(str(errors.UsageError("x" * 10**7))) == errors.MESSAGE_CHARS_MAX


def test_half_a_surrogate_pair_in_a_message_is_written_as_python_prints_it() -> None:
    """It stands in every file name that is not UTF-8, and cannot be sent, journaled or printed."""
    assert str(errors.UsageError("caf\udce9 \U0001f600 é")) == "caf\\udce9 \U0001f600 é"
    assert errors.said(ValueError("\ud800")) == r"\ud800"
    assert len(errors.said(ValueError("\ud800" * 10**6))) == errors.MESSAGE_CHARS_MAX


def test_a_buffer_error_is_at_once_exception_and_payload() -> None:
    error = errors.BufferError("b1", "No items\nspecified")
    assert (error.buffer_id, error.error) == ("b1", "No items\nspecified")
    assert str(error) == "buffer b1: No items specified"
    assert error == errors.BufferError(buffer_id="b1", error="No items\nspecified")
    assert error != errors.BufferError("unknown", "No items\nspecified")
    assert len({error, errors.BufferError("b1", "No items\nspecified")}) == 1
    assert copy.copy(error) == pickle.loads(pickle.dumps(error)) == error
    with pytest.raises(DurableBusError):
        raise error
    assert error.with_traceback(None).__traceback__ is None


def test_a_held_lock_names_its_holder() -> None:
    assert "4711" in str(errors.JournalLocked(4711))
    assert errors.JournalLocked(4711, "/x/journal.db").holder_pid == 4711
    assert "/x/journal.db" in str(errors.JournalLocked(4711, "/x/journal.db"))
    assert errors.JournalLocked().holder_pid is None


def test_each_death_of_a_worker_has_a_class_that_says_how() -> None:
    assert str(errors.WorkerExited(3)) == "worker exited with code 3"
    assert str(errors.WorkerKilled(signal.SIGKILL)) == "worker killed by SIGKILL"
    assert str(errors.WorkerKilled(40)) == "worker killed by signal 40"
    assert str(errors.WorkerSilent(2.5)) == "no answer within 2.5 s"
    assert errors.WorkerKilled(9).signal_number == 9


def test_what_fails_an_item_says_its_kind_of_failure() -> None:
    kinds = {c.__name__: c.kind for c in CLASSES if issubclass(c, errors.ItemError)}
    assert kinds["MalformedItem"] == "malformed"
    assert kinds["UnserialisableAnswer"] == "answer"
    assert kinds["WorkerExited"] == kinds["WorkerKilled"] == "lost"
    assert kinds["WorkerSilent"] == "timeout"
    assert kinds["WorkerUnresponsive"] == kinds["WorkerUnintelligible"] == "lost"


def test_an_exception_whose_str_raises_is_still_said() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert "cannot say" in errors.said(Mute())


def test_the_public_names_are_sorted_and_complete() -> None:
    assert set(errors.__all__) >= {c.__name__ for c in CLASSES}
