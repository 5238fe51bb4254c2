"""The simulation: the real supervisor and the real SQLite in a world where everything around them is made up.

::

    schedule.py   one seed, one schedule: which faults, how often, and what must be true in the end
    machine.py    the computer: a journal, a supervisor that dies and comes back, the faults that befall it
    workers.py    the pool port: workers that are slow, stop, die, answer late or twice; what handlers answer
    clients.py    the connections port: clients that reconnect, repeat themselves, vanish, disagree
    storage.py    the commit port: crashes around COMMIT, a disk without room, a COMMIT that may have happened
    model.py      what crossed the ports, and what must follow from it
    invariants.py what must be true of a journal's rows at every moment
    world.py      time, and what happens when

Everything random comes from one generator, so that a seed is a schedule.
"""

from simulation.machine import Machine
from simulation.model import Violation
from simulation.schedule import Profile, Summary, run_schedule

__all__ = ["Machine", "Profile", "Summary", "Violation", "run_schedule"]
