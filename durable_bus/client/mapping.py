"""`durable_bus.map`: a function over an iterable, kept in a journal.

Nothing heavy is imported here: the supervisor boots while `mapped_values` is.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from durable_bus.app.finding import function_spec, known_as, mapped_settings
from durable_bus.client.embedded import OwnSupervisor, check_workers
from durable_bus.errors import UsageError
from durable_bus.wire.spawning import INSIDE_HANDLER_VARIABLE, refuse_inside_handler

__all__ = ["map"]

Item = TypeVar("Item")
Value = TypeVar("Value")


def map(
    function: Callable[[Item], Value],
    items: Iterable[Item],
    *,
    journal: str | os.PathLike[str] = "journal.db",
    workers: int | None = None,
    buffer_id: str | None = None,
    ordered: bool = True,
    return_exceptions: bool = False,
    timeout: float | None = 3600.0,
    attempts: int = 1,
) -> Iterator[Value]:
    """Call a function with every item, in worker processes, and give what it returns: a generator of values,
    in the order of the items. Every item and value is in the journal when its value is given.

    The same call again, after whatever has stopped it, gives what is recorded and runs what is missing.

    - `function`: any, sync or async. Workers import it; one that they could not, such as a lambda or what is
      made in a notebook, is sent to them with what it uses. What it is given and returns comes back equal
      and of the same type: as text and JSON where that holds, else as a pickle.
    - `items`: any iterable, also an endless one. At most 10,000 items are read before their values are asked
      for, in the thread that asks.
    - `journal`: the file, made when there is none. Nobody else may serve it meanwhile.
    - `workers`: how many processes. The default is the number of usable cores.
    - `buffer_id`: what the journal calls it. The default is made of the function's name, where it is, and the
      first 256 items: other items need an id of their own when they begin with the same. Of a function that
      is sent it is also made of its code and what that uses.
    - `ordered`: False gives values as they are recorded.
    - `return_exceptions`: True gives the ItemFailed of a failed item in the place of its value; else it is
      raised at its turn, and the same call again raises it again.
    - `timeout`: seconds that an item may take, None for no limit. `attempts`: how often it is tried.

    Raises UsageError, at once, for what cannot be; BufferError for an id that was used with other items,
    naming the first that differs; ItemFailed; and what `Bus.running` raises. When the generator is closed
    before its end, what runs is finished and recorded, and nothing is left behind but the journal.
    """
    _refuse_in_import(function)
    settings = mapped_settings(getattr(function, "__name__", ""), timeout, attempts)
    app = function_spec(function, settings)
    try:
        iterator = iter(items)
    except TypeError:
        raise UsageError(f"items must be an iterable of items, not {type(items).__name__}") from None
    if buffer_id is not None:
        from durable_bus.client.buffer_ids import check_buffer_id

        check_buffer_id(buffer_id)
    check_workers(workers)
    refuse_inside_handler(Path(journal))
    own = OwnSupervisor(app, app.name, Path(journal), workers, one_job=True)
    return _values(
        own,
        iterator,
        Path(journal),
        target=settings.listener,
        buffer_id=buffer_id,
        known_as=known_as(function, app) if buffer_id is None else "",
        ordered=ordered,
        return_exceptions=return_exceptions,
    )


def _refuse_in_import(function: Callable[..., Any]) -> None:
    """A worker that imports the function would call us again, and so would its own. Raises UsageError."""
    name = getattr(function, "__module__", None) or ""
    module = sys.modules.get(name)
    if name == "__mp_main__":
        being_imported = module is not sys.modules["__main__"]
    else:
        being_imported = getattr(getattr(module, "__spec__", None), "_initializing", False)
    if being_imported and INSIDE_HANDLER_VARIABLE in os.environ:
        raise UsageError(
            f"a worker that imports {getattr(module, '__file__', name)} comes to this call of map: put it "
            'under `if __name__ == "__main__":`'
        )


def _values(
    own: OwnSupervisor,
    items: Iterator[Any],
    journal: Path,
    *,
    target: str,
    buffer_id: str | None,
    known_as: str,
    **given: bool,
) -> Iterator[Any]:
    # A script is `__mp_main__` in a worker, and so are the classes of what it pickles.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    with contextlib.closing(own):
        own.start_ahead()
        from durable_bus.client.mapped_values import MappedValues

        yield from MappedValues(target, journal, buffer_id, known_as).given(own, items, **given)
