"""Schedules that have found a bug once, each as it was then: what has come to them since is left out."""

from functools import partial
from pathlib import Path

import pytest

from simulation import run_schedule

run_found = partial(run_schedule, no_room=0.0)


@pytest.mark.parametrize(
    "seed", [71, 81, 196, 1389, 4476, 5031, 5704, 20303, 102101, 301049, 700398, 710026, 8004642, 8016088,
             8030462, 8052677],
)  # fmt: skip
def test_schedules_that_have_found_a_bug(folder: Path, seed: int) -> None:
    """1389: a start was given up because of the time that no supervisor ran. 5031: a full disk turned round a
    client's hello, which waited for a worker, and its next request. 4476, 5704: a worker was told again and
    again to give back what it had thrown away. 102101: a frame that waits for room on disk was taken for one
    that waits for a worker. 301049: a worker was stopped just where it had said that it begins the last of
    what was taken back from it, and nobody missed it. Since payloads have four forms, and since there are
    streams, these six seeds make other schedules than they did then. 71, 81: a producer that came back was
    told that its stream is sealed, by another one that had gone on meanwhile without its last chunks.
    196: what is less urgent was handed out behind what took it back, turn after turn.
    20303: a worker was kept free for an item that got the answer of an equal one, and nobody looked for other
    work for it. 700398: what was new of a stream came after what is less urgent, in the turn in which a new
    run had found that nothing was left of what came before. 710026: a worker was late with an item that it
    had only said it begins when it was looked at first. 8004642: items were taken back again and again for a
    worker that was kept free for another one, whose limit did not let it begin. 8016088: the first limits of
    an app came with a reload, and what had begun before counted as not begun: more than was in hand, which
    the journal refused, and the supervisor ended. 8030462: what equal items had answered ran all the same
    after a crash, in a buffer of which nothing had gone out. 8052677: as 20303, at its buffer's end.
    """
    run_found(seed, folder, engine=None)


@pytest.mark.parametrize("seed", [8013676, 8014744, 8045535, 8062659])
def test_what_an_engine_says_late_and_older_code_hands_back_is_no_fault(folder: Path, seed: int) -> None:
    """8013676: what a batch has spent, of an item that had an equal one's answer by then. 8014744: an engine
    was stopped when it had said that a batch begins; others had begun. 8045535: a message was thrown away as
    often as it came: newer code lacks its limit. 8062659: who waits goes on in the next turn, at once.
    """
    run_found(seed, folder)


def test_a_worker_that_was_kept_free_for_what_is_done_is_given_other_work(folder: Path) -> None:
    """A batch was late and was to run again, alone in the engine; then its reply came all the same. In that
    turn nothing else was handed out, and in the next quarter of a second nobody looked.
    """
    run_found(2003778, folder)


def test_what_an_urgent_item_took_back_does_not_go_out_whole_behind_it(folder: Path) -> None:
    """A limit let one urgent item through after another. Each took back all that had just gone out again."""
    run_found(3001337, folder)


@pytest.mark.parametrize("seed", [3001240, 4004457, 4005740])
def test_who_waits_for_an_equal_item_during_a_reload_goes_on(folder: Path, seed: int) -> None:
    """3001240: by the new memo text it waited for an item that went to a worker with the old one in the same
    turn, and was given an answer. 4004457, 4005740: by an old text it waited for one that went to a worker
    whose code has none.
    """
    run_found(seed, folder)


def test_a_message_goes_to_the_new_worker_when_the_new_engine_is_ready(folder: Path) -> None:
    """The worker beside the engine was let go by a reload, and what it had not begun went out again."""
    run_found(4010432, folder)


def test_what_a_connection_says_that_was_given_up_is_read_for_nobody(folder: Path) -> None:
    """The last frame of a start was read when its client had come back on another connection, and opened the
    buffer. The client was told nothing: not there, where nobody heard it, nor here, where there was no start
    any more.
    """
    run_schedule(8087282, folder, no_room=0.1)


@pytest.mark.parametrize("seed", [8090595, 8095231])
def test_what_a_death_or_another_client_has_done_is_no_fault(folder: Path, seed: int) -> None:
    """8090595: a message was handed out again before the log said that its worker had died. 8095231: another
    client began with the same id while the first one was away, which was told that nothing is there.
    """
    run_found(seed, folder)
