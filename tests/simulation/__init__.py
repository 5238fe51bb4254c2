"""The simulation: the real supervisor and the real SQLite in a world where everything around them is made up.

::

    schedule.py        one seed, one schedule: which faults, how often, and what must be true in the end
    machine.py         the computer: a journal, a supervisor that dies and comes back, what befalls it
    settling.py        what must come true when faults have stopped
    pool.py            the pool port: starts workers, hands them work, reads what they say
    processes.py       what every simulated process goes through: steps, stops, a boot, an end
    workers.py         workers that are slow, stop, die, answer late or twice
    engines.py         engine processes, and the engines that lose, refuse and forget batches
    worker_pipe.py     what a worker says, and the pipe through which it does
    handlers.py        what handlers answer
    attempts.py        what simulated workers do beside answering: returns of limits that rest, and spending
    listeners.py       the listeners and limits of the simulated app
    connections.py     the connections port: links between a supervisor and its clients
    clients.py         clients that reconnect, repeat themselves, vanish, disagree, set limits
    streamers.py       clients that put the items of a stream, one after another
    correspondents.py  clients with a mailbox
    storage.py         the commit port: crashes around COMMIT, a full disk, a COMMIT that may have happened
    records.py         what is known of items, messages and buffers, and by which key
    model.py           what crossed the ports, and what must follow from it
    told.py            what clients were told, which is on disk
    invariants.py      what must be true of a journal's rows at every moment
    pace_invariants.py the same of what may start when
    pace.py            limits, rests, budgets, priorities and deadlines, as work leaves and begins
    equals.py          which items equal others, and which listeners have a memo
    memos.py           what is given again, and who waits for an equal item
    memory.py          what the supervisor remembers is what the rows say
    planting.py        what tests that plant bugs share
    scheduling.py      how often an item is handed out without being begun, and how long a worker idles
    world.py           time, and what happens when

Everything random comes from one generator, so that a seed is a schedule.
"""

from simulation.machine import Machine
from simulation.records import Violation
from simulation.schedule import Profile, Summary, run_schedule

__all__ = ["Machine", "Profile", "Summary", "Violation", "run_schedule"]
