"""Who waits for a change may be interrupted at any moment: then it holds the lock, and lets go of it."""

import threading

from interrupts import interrupt_within

from durable_bus.client.changes import Changes

LONG_S = 60.0


def test_ctrl_c_at_any_moment_of_a_wait_is_what_it_is_and_the_lock_is_free_after_it() -> None:
    interrupted, moments = True, 0
    while interrupted:
        lock = threading.RLock()
        changed = Changes(lock)

        def wait(lock: "threading.RLock" = lock, changed: Changes = changed) -> None:
            with lock:
                changed.wait_for(lambda: False, 0.001)

        moments += 1
        interrupted = interrupt_within(wait, threading, moments)
        taken: list[bool] = []
        other = threading.Thread(
            target=lambda lock=lock, taken=taken: taken.append(lock.acquire(timeout=LONG_S))
        )
        other.start()
        other.join()
        assert taken == [True], f"interrupted before line {moments}, it holds its lock for ever"
    assert moments >= 15


def test_who_was_interrupted_waits_again_and_is_told() -> None:
    lock = threading.RLock()
    changed = Changes(lock)

    def wait() -> None:
        with lock:
            changed.wait_for(lambda: False, 0.001)

    assert interrupt_within(wait, threading, 12)
    come: list[int] = []

    def tell() -> None:
        with lock:
            come.append(1)
            changed.notify_all()

    teller = threading.Thread(target=tell)
    with lock:
        teller.start()
        assert changed.wait_for(lambda: bool(come), LONG_S)
    teller.join()
