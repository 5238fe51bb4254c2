"""Engines, measured: what is lost when their workers are killed, and how many items a second go through.

    tools/engines.py                                  everything: some ten minutes
    tools/engines.py --only kills --engines dask      some of it

Nothing here asserts anything about time: it prints what it has measured. It needs loky and distributed.

**kills**: 20,000 items of 5 ms on each engine with two workers: one of them is killed with kill -9 every two
seconds, the supervisor twice, Dask's scheduler once. One item kills whoever runs it. Whether each item has
one result and it is the right one; which have failed; a digest of the results, which is the same on every
engine; which items have run alone when they were lost.

**tiny**: 1,000,000 items that do nothing: items a second, and the memory of each process in each quarter of
the time.

**bare**: the same items of 5 ms over a bare Dask client, whose scheduler is killed: what is left of them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from _bench.sections import Sections, measured
from _engines.measures import bare, kills, show_bare, show_kills, show_tiny, tiny

SECTIONS: Sections = {
    "kills": (kills, show_kills),
    "tiny": (tiny, show_tiny),
    "bare": (bare, show_bare),
}
ENGINES = ("local", "process", "loky", "dask")


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="The top of this file says what is measured, and how.",
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections of {','.join(SECTIONS)}")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of {','.join(ENGINES)}")
    parser.add_argument("--items", type=int, default=20_000, help="of kills and bare")
    parser.add_argument("--kill-every", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--patience", type=float, default=600.0, metavar="SECONDS", help="kills ends then")
    parser.add_argument("--tiny-items", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where journals go")
    parser.add_argument("--json", action="store_true", help="print JSON, at the end")
    options = parser.parse_args(arguments)
    for name, known in (("only", SECTIONS), ("engines", ENGINES)):
        words = getattr(options, name).split(",")
        if unknown := set(words) - set(known):
            parser.error(f"unknown {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        setattr(options, name, words)
    return options


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    return measured("tools/engines.py", words, options_of(words), SECTIONS)


if __name__ == "__main__":
    sys.exit(main())
