"""Hours of a daemon under load and random kills, and whether all that was promised was kept.

    tools/soak.py --minutes 10                  everything that can be killed is
    tools/soak.py --minutes 10 --seed 7         the same decisions again

Clients submit buffers without pause, while workers, the daemon and the clients themselves are killed with
SIGKILL and stopped with SIGSTOP at random. In the last third of the time the daemon is spared, so that its
memory and its open files can be watched over a long life. Then everybody is left alone until all is done, and
the journal is compared with what each client wrote down when it was told something:

- every acknowledged buffer is there, complete, with the items that were sent, and right results in their
order;
- each BufferComplete was received, under one id only, however often;
- nothing is in flight, every counter is what the rows say, SQLite's own check passes;
- memory and open files are flat.

What follows from the seed is what is decided, not when exactly it happens. Exit code 1 when anything is
wrong.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from _soak.chaos import Soak
from _soak.client import run_client
from _soak.judgement import Judgement


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["soak", "client"], default="soak", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="of its decisions; default: a new one, which is printed")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the journal and the logs; default: a new one")
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "client":
        run_client(options.folder, options.number, options.seed)
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="durable_bus-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, in {folder}", flush=True)
    soak = Soak(folder, seed, options.minutes, options.clients, options.workers)
    soak.run()
    judgement = Judgement(soak)
    judgement.judge()
    print(judgement.summary())
    return 1 if soak.violations else 0


if __name__ == "__main__":
    sys.exit(main())
