"""What the options of listeners and limits may be. Each check raises UsageError, which begins with whose
option it is and names the option.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from durable_bus.errors import UsageError, encodable
from durable_bus.payloads.messages import SECONDS_MAX, SYSTEM_BUFFER, check_name, is_seconds
from durable_bus.payloads.rates import starts_per_s
from durable_bus.payloads.settings import LimitSettings, ListenerSettings

__all__ = [
    "check_attempts",
    "check_retry_on",
    "check_timeout",
    "limit_settings",
    "listener_settings",
    "no_limit",
]

ATTEMPTS_MAX: Final = 1000
CONCURRENCY_MAX: Final = 10_000
MEMO_CHARS_MAX: Final = 100
RUNNING_MAX: Final = 1 << 32


def check_timeout(timeout: float | None, where: str) -> float | None:
    """Seconds that an attempt may take, None for no limit."""
    return None if timeout is None else _seconds(where, "timeout", timeout, zero=False)


def check_attempts(attempts: int, where: str) -> int:
    """How often an item is tried."""
    return _count(where, "attempts", attempts, ATTEMPTS_MAX)


def _seconds(where: str, option: str, value: object, zero: bool) -> float:
    """A number of seconds; `zero`: it may be 0."""
    if not is_seconds(value) or value > SECONDS_MAX or (value == 0 and not zero):
        least = "at least 0" if zero else "above 0"
        raise UsageError(
            f"{where}: {option}={value!r:.100} is not a number of seconds {least} and at most {SECONDS_MAX:,}"
        )
    return float(value)


def _count(where: str, option: str, value: object, count_max: int) -> int:
    """A whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= count_max:
        raise UsageError(f"{where}: {option}={value!r:.100} is not a whole number from 1 to {count_max}")
    return value


def _jitter(where: str, jitter: object) -> float:
    """A share, from 0 to 1."""
    if not is_seconds(jitter) or jitter > 1:
        raise UsageError(f"{where}: jitter={jitter!r:.100} is not a number from 0 to 1")
    return float(jitter)


def _memo(where: str, memo: object) -> str | None:
    """A text of 1 to 100 characters that can be journaled, or None."""
    if memo is None:
        return None
    if not isinstance(memo, str) or not 1 <= len(memo) <= MEMO_CHARS_MAX:
        raise UsageError(f"{where}: memo={memo!r:.200} is not a text of 1 to {MEMO_CHARS_MAX} characters")
    if "\0" in memo or encodable(memo) != memo:
        raise UsageError(f"{where}: memo={memo!r:.200} holds a character that cannot be journaled")
    return str.__str__(memo)


def check_retry_on(listener: str, retry_on: object) -> tuple[type[BaseException], ...] | None:
    """Classes of exceptions; None: all are retried."""
    if retry_on is None:
        return None
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    for one in classes:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise UsageError(
                f"listener {listener}: retry_on={retry_on!r:.200} is no class of exceptions, nor a tuple"
            )
    return classes


def _peers(where: str, peers: object) -> tuple[str, ...] | None:
    """Names of listeners or mailboxes, or "system.buffer"; None: all."""
    if peers is None:
        return None
    names = _names(where, "peers", peers)
    return tuple(peer if peer == SYSTEM_BUFFER else check_name(peer, f"{where}: peer") for peer in names)


def _limits(where: str, limits: object) -> tuple[str, ...]:
    """Names of limits, each once. Whether there are such limits is seen when all of the app is declared."""
    names = [check_name(limit, f"{where}: limits: limit") for limit in _names(where, "limits", limits)]
    # A set has another order in every process, and all workers must report the same.
    return tuple(sorted(names) if isinstance(limits, (set, frozenset)) else dict.fromkeys(names))


def _names(where: str, option: str, names: object) -> list[object]:
    if not isinstance(names, (list, tuple, set, frozenset)):  # a str is iterable too, letter by letter
        raise UsageError(f"{where}: {option}={names!r:.100} is not a list of names")
    return [*names]


def listener_settings(
    name: str,
    timeout: float | None,
    attempts: int,
    backoff: float,
    concurrency: int,
    peers: object,
    limits: object,
    backoff_max: float | None,
    jitter: float,
    memo: str | None,
) -> ListenerSettings:
    """Of a listener with an async handler, from the options of `Bus.listener`."""
    where = f"listener {name}"
    longest_s = None if backoff_max is None else _seconds(where, "backoff_max", backoff_max, zero=False)
    return ListenerSettings(
        name,
        timeout_s=check_timeout(timeout, where),
        attempts=check_attempts(attempts, where),
        backoff_s=_seconds(where, "backoff", backoff, zero=True),
        concurrency=_count(where, "concurrency", concurrency, CONCURRENCY_MAX),
        is_async=True,
        peers=_peers(where, peers),
        limits=_limits(where, limits),
        backoff_max_s=longest_s,
        jitter=_jitter(where, jitter),
        memo=_memo(where, memo),
    )


def no_limit(name: str, limits: Iterable[str]) -> str:
    """Says that none of an app's limits is called so."""
    names = ", ".join(limits)
    return f"no limit is called {name}; " + (f"there are {names}" if names else "there is none")


def limit_settings(name: str, rate: str | None, running: int | None, adaptive: bool) -> LimitSettings:
    """Of a limit, from the options of `Bus.limit`."""
    check_name(name, "limit")
    where = f"limit {name}"
    if rate is None and running is None:
        raise UsageError(f"{where}: it limits nothing: give rate, running or both")
    if rate is not None:
        try:
            starts_per_s(rate)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    if running is not None:
        _count(where, "running", running, RUNNING_MAX)
    elif adaptive:
        raise UsageError(f"{where}: adaptive=True needs running, the most that it may come to")
    return LimitSettings(name, rate, running, bool(adaptive))
