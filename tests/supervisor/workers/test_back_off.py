"""How long nobody is started after a worker that could not be."""

from durable_bus.supervisor.state import State
from durable_bus.supervisor.workers.workforce import _back_off


def test_it_doubles_up_to_half_a_minute_and_stays_there_for_days() -> None:
    """After nine hours of it the doublings were more than a float can hold, and the daemon ended."""
    state = State()
    waits_s = [_back_off(state, 0.0) for _ in range(10_000)]
    assert waits_s[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert waits_s[-1] == state.spawn_at_s == 30
