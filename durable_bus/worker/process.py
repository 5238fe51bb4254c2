"""What runs inside a worker process: import the app, take batches, run handlers, answer.

A worker dies with its supervisor, never writes the journal, and can be killed at any moment: whatever it has
not sent is run again by somebody else. Its first frame is the app's table of listeners, or why the app cannot
be imported.

A handler may do anything to its process. What it raises, returns or prints is dealt with here; with a death
deals the supervisor, to which the slot says which item was started last.
"""

import os
import traceback

from durable_bus.app.finding import load_app
from durable_bus.errors import DurableBusError, encodable
from durable_bus.wire.spawning import WorkerArguments
from durable_bus.wire.telemetry import has_sdk
from durable_bus.wire.work import AppNotImportable, Ready
from durable_bus.worker.beginning import begin
from durable_bus.worker.failing import RestingLimits, describe
from durable_bus.worker.handling import MessageHandling
from durable_bus.worker.prints import Prints
from durable_bus.worker.replies import Replies
from durable_bus.worker.sync_runner import SyncRunner

__all__ = ["main"]


def _disown_forks(fds: tuple[int, int], words: "memoryview[int]", replies: Replies) -> None:
    """A handler may fork. The child is no worker: it must read no frame, answer nothing and run no item.

    Its ends of the pipes lead nowhere from the first moment, which also lets the supervisor see the end of
    ours; the slot is gone, so that a child that returns from the handler stops at its next look at it.
    """

    def in_child() -> None:
        null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in fds:
            os.dup2(null_fd, fd, inheritable=False)
        os.close(null_fd)
        words.release()
        replies.renew_lock()  # the flushing thread, which may have held it, is not in the child

    os.register_at_fork(after_in_child=in_child)


def _where(error: BaseException | None) -> str:
    """The user's line that raised, for the one line that a user sees of it: not that of a library in which it
    ended, nor ours.
    """
    import sysconfig  # only here: a millisecond

    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = (*map(sysconfig.get_path, names), os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # Not by extract_tb: that reads the source, of which nobody wants a line, and from Python 3.15 on it
    # warns of a script's globals, which ends the worker where warnings are errors.
    steps = [] if error is None else traceback.walk_tb(error.__traceback__)
    places = [(frame.f_code.co_filename, line) for frame, line in steps]
    places = [place for place in places if not place[0].startswith("<")]
    own = [place for place in places if not place[0].startswith(libraries)] or places
    if not own or isinstance(error, SyntaxError):  # which says it itself
        return ""
    filename, line = own[-1]
    return encodable(f" ({os.path.basename(filename)}, line {line})")


def main(arguments: WorkerArguments) -> int:
    """The worker process."""
    words = begin(arguments).words
    read_fd, write_fd, _ = arguments.fds
    replies = Replies(write_fd)
    _disown_forks((read_fd, write_fd), words, replies)
    prints = Prints.install() if arguments.json_log else []
    if arguments.waits and not os.read(read_fd, 1):
        return 0
    try:
        bus = load_app(arguments.app)
        listeners = bus.settings()
    except DurableBusError as error:
        trace = "" if error.__cause__ is None else describe(error.__cause__).traceback
        replies.send(AppNotImportable(f"{error}{_where(error.__cause__)}", trace))
        return 1
    replies.flush_in_time()
    messages, resting = MessageHandling(arguments.journal), RestingLimits(bus.limits)
    if any(settings.is_async for settings in listeners.values()):
        # asyncio costs 50 ms of boot: others do not pay it.
        from durable_bus.worker.async_runner import AsyncRunner

        runner: AsyncRunner | SyncRunner = AsyncRunner(bus, words, replies, messages, resting)
    else:
        runner = SyncRunner(bus, words, replies, messages, resting)
    for stream in prints:
        stream.name_items(runner.at_work if isinstance(runner, SyncRunner) else runner.sync.at_work)
    # Whoever is ready and begins nothing is ended after a few seconds: no import comes after this.
    replies.send(Ready(listeners, bus.forms, bus.limits, traces=has_sdk()))
    pid = os.getpid()
    try:
        runner.serve(read_fd)
    finally:
        if os.getpid() != pid:
            os._exit(0)  # a child that a handler forked: what the app does at exit is not its business
    return 0
