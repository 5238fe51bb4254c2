"""Limits, priorities and costs, measured: what starts when, as a service sees it that is called over HTTP.

    tools/pace.py                            everything: seven minutes
    tools/pace.py --only limit,adaptive      some of it

Nothing here asserts anything about time: it prints what it has measured. It needs httpx.

**example**: `durable_bus.examples.paced_service` with 2,000 prompts against `limited_service`, killed three
times with kill -9, supervisor and workers, and run again. Whether each prompt was answered once; what the
service has refused behind the first second; by how many answers it and the view `spending` differ. Of each
call whose costs are lost, whether it was in flight at the kill that ended its run: asked before, and in the
hands of a worker without a recorded answer, as the journal has it. How many of them were at the service
then; of those that it had answered, and that were on their way to the journal, how long before at most.

**limit**: 500 a second, four workers, two buffers, 60 s. `durable-bus serve` is killed with kill -9 half-way
and started again at once. The service takes everything and notes when. In a window of T seconds may be
500·T + 500 calls: how many more, or less, has the worst window of all? How much of the rate was used? The
first also by when handlers began, by their own clock: what lies between is the way to the service.

**adaptive**: at most 200 at once, adaptive, against a service that takes 100 at once and 50 by turns, for 20
s each, and 0.5 s for an answer. From 10 s after each change on: answers a second, over what the service could
give. And the longest time without an answer. The time between an answer and the next start,
30 ms or so, is a share of it: the shorter an answer takes, the more.

**priority**: ten-item buffers with priority 10, one after the other, beside a buffer of 1,000,000 items of
1 ms. One with priority -2 beside the same: it ages by a step every ten seconds. Two buffers on one limit of
200/s: how many items of each in 20 s.

**waiting**: 100,000 items that wait for a limit of one an hour. The supervisor's memory; how long it takes to
answer `status` meanwhile, asked without pause for ten seconds (a turn that takes long makes that wait); how
many items a second another listener does before, beside them, and when they are cancelled.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from _bench.sections import Sections, measured
from _pace.calls import adaptive, example, limit, show_adaptive, show_example, show_limit
from _pace.waiting import priority, show_priority, show_waiting, waiting

SECTIONS: Sections = {
    "example": (example, show_example),
    "limit": (limit, show_limit),
    "adaptive": (adaptive, show_adaptive),
    "priority": (priority, show_priority),
    "waiting": (waiting, show_waiting),
}


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="The top of this file says what is measured, and how.",
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections of {','.join(SECTIONS)}")
    parser.add_argument("--prompts", type=int, default=2_000, help="of the example")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long limit runs")
    parser.add_argument("--periods", type=int, default=5, help="of adaptive")
    parser.add_argument("--change-seconds", type=float, default=20.0, help="how long one is")
    parser.add_argument("--capacity", type=int, default=100, help="how many its service takes at once")
    parser.add_argument("--latency", type=float, default=0.5, help="how many seconds its answers take")
    parser.add_argument("--big-items", type=int, default=1_000_000, help="of priority's big buffer")
    parser.add_argument("--fair-seconds", type=float, default=20.0, help="how long its two buffers run")
    parser.add_argument("--waiting-items", type=int, default=100_000)
    parser.add_argument("--status-seconds", type=float, default=10.0, help="how long status is asked")
    parser.add_argument("--echo-items", type=int, default=100_000, help="of each of waiting's rates")
    parser.add_argument("--rounds", type=int, default=3, help="of waiting's rates, whose median counts")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where journals go")
    parser.add_argument("--json", action="store_true", help="print JSON, at the end")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    return measured("tools/pace.py", words, options_of(words), SECTIONS)


if __name__ == "__main__":
    sys.exit(main())
