"""The app whose items run on engines: one that sleeps and one that does nothing, and a poison that kills."""

import os
import time

from durable_bus import Bus

bus = Bus("engines", form="json")

WORK_S = 0.005
POISON = 777
"""The number whose item kills the process that runs it."""


@bus.listener("work")
def work(number: int) -> int:
    time.sleep(WORK_S)
    if number == POISON:
        os._exit(9)
    return number * number


@bus.listener("tiny")
def tiny(number: int) -> int:
    return number
