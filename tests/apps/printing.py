"""Listeners that print in every way there is."""

import asyncio
import logging
import os
import sys
import threading

from durable_bus import Bus

bus = Bus("printing")
logging.basicConfig(level=logging.INFO, format="%(message)s")
print("at import")


@bus.listener("say")
def say(text: str) -> str:
    print(f"{text}: to stdout")
    print(f"{text}: two\nlines", file=sys.stderr)
    logging.info("%s: by logging", text)
    sys.stdout.write(f"{text}: in ")
    sys.stdout.flush()
    sys.stdout.write("parts\n")
    thread = threading.Thread(target=print, args=(f"{text}: by a thread\n",), kwargs={"end": ""})
    thread.start()
    thread.join()
    os.write(2, f"{text}: by the descriptor\n".encode())
    return str(os.getpid())


@bus.listener("fork")
def fork(text: str) -> str:
    child = os.fork()
    if child == 0:
        print(f"{text}: by a child")
        os._exit(0)
    os.waitpid(child, 0)
    return str(child)


async_bus = Bus("printing_async")


@async_bus.listener("say", concurrency=10)
async def say_async(text: str) -> str:
    await asyncio.sleep(0.01)
    print(f"{text}: in its task")
    await asyncio.gather(_say(f"{text}: in another task"), asyncio.to_thread(print, f"{text}: in a thread"))
    return text


async def _say(text: str) -> None:
    await asyncio.sleep(0.01)
    print(text)


@async_bus.listener("sync")
def say_between(text: str) -> str:
    print(f"{text}: between them")
    return text
