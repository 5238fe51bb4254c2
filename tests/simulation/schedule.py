"""One seed, one schedule: what is started, what goes wrong and how often."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from durable_bus.payloads.settings import LimitSettings
from durable_bus.supervisor.outcomes import attempts
from durable_bus.supervisor.scheduling import dispatcher as dispatch
from durable_bus.wire.parts import Terms
from simulation.equals import Equality, equal_items, other_memos, with_memos
from simulation.faults import Engine, Faults
from simulation.forms import some_forms, worded
from simulation.handlers import FOR_EVER_S, Handler, obey
from simulation.listeners import LIMITS, LISTENERS, SimulatedApp, limited_by
from simulation.machine import Machine
from simulation.records import NO_TERMS, Content
from simulation.storage import AT_COMMIT
from simulation.streamers import Habits

__all__ = ["Profile", "Summary", "cuts", "run_schedule", "some_content", "some_letters", "some_terms"]

_RESUME = 0.05
"""Per turn: somebody resumes a buffer that is paused."""
_RATES = (0.005, 0.02, 0.08)
_ACTS = {
    "ok": 60, "slow": 3, "huh": 3, "none": 3, "raise": 4, "raise:1": 5, "raise:2": 3, "malformed": 3,
    "unserialisable": 2, "die": 2, "die:1": 4, "hang:1": 2, "hang": 1, "final": 2,
    "later:0.2::1": 2, "later:0.5:steady:1": 2, "later:2:steady:2": 1, "later:1:few:1": 2,
    "later:0::99": 1, "later:0.1::1 raise": 2,
}  # fmt: skip
RETURNS_MAX = 6
"""How often an item may come back by RetryAfter in a schedule, instead of 1,000 times."""
_MAILBOXES = ("alice", "bob")


@dataclass(frozen=True)
class Summary:
    """What a schedule has been through."""

    seed: int
    turns: int
    commits: int
    starts: int
    crashes: int
    buffers: int
    streams: int
    items: int
    messages: int
    executions: int
    given_again: int
    has_engine: bool
    simulated_s: float


@dataclass(frozen=True)
class Profile:
    """What may go wrong in a schedule, and how often.

    Each schedule has some faults and not others: one that always comes hides those that need it not to come.
    """

    workers: int
    clients: int
    items_max: int
    turns: int
    faults: Faults
    no_room: float
    """For one more process."""
    kill_worker: float
    freeze_worker: float
    disk_full: float
    crash: float
    break_connection: float
    vanish: float
    ask_again: float
    stop: float
    reload: float
    lose_listener: float
    set_clock: float
    same_id: float
    streams: int
    empty_stream: float
    another_producer: float
    """Somebody else wants to go on with a stream, whether or not somebody does."""
    talk: float
    """How much of the work is passed on: forwards, and buffers in buffers."""
    mailboxes: int
    control: float
    batch_bytes_max: int
    """What a batch is cut at: an item has some 15 bytes."""
    limits: dict[str, LimitSettings]
    """Which limits the app has."""
    other_limits: float
    """Per reload: its code has others."""
    set_limit: float
    terms: float
    """How many of the starts say under which terms they run."""
    spends: float
    """How many of the attempts spend something."""
    equality: Equality
    engine: Engine | None
    """Where items run; None: in workers."""

    @classmethod
    def draw(cls, seed: int) -> "Profile":
        rng = random.Random(f"profile {seed}")

        def rate(most: float = 1.0) -> float:
            return rng.choice(_RATES) * most if rng.random() < 0.5 else 0.0

        kinds = tuple(kind for kind in AT_COMMIT if rng.random() < 0.5)
        return cls(
            workers=rng.randint(1, 4),
            clients=rng.randint(1, 4),
            items_max=rng.choice([1, 5, 20, 60]),
            turns=rng.choice([30, 60, 120]),
            faults=Faults(
                commit=rate(),
                kinds=kinds,
                answer_twice=rate(4),
                read_in_parts=rate(4),
                boot=rate(4),
                freeze=rng.choice([0.0, 0.0, 0.0, 0.002, 0.02]),
                pause=rate(),
                pipe_frames=rng.choice([1, 3, 100]),
            ),
            # With chance of its own: the other schedules are what they were.
            no_room=random.Random(f"no room {seed}").choice([0.0, 0.0, 0.0, 0.0, 0.1, 0.5]),
            kill_worker=rate(),
            freeze_worker=rate(),
            disk_full=rate(0.5),
            crash=rate(0.5),
            break_connection=rate(),
            vanish=rate(0.5),
            ask_again=rate(),
            stop=rate(0.3),
            reload=rate(0.3),
            lose_listener=rate(),
            set_clock=rate(),
            same_id=0.3 if rng.random() < 0.5 else 0.0,
            streams=rng.choice([0, 0, 1, 2]),
            empty_stream=0.05,
            another_producer=rate(),
            talk=rng.choice([0.0, 0.0, 0.1, 0.4]),
            mailboxes=rng.choice([0, 0, 1, 2]),
            control=rate(),
            batch_bytes_max=rng.choice([40, 200, dispatch.BATCH_BYTES_MAX, dispatch.BATCH_BYTES_MAX]),
            limits=some_limits(rng),
            other_limits=rng.choice([0.0, 0.5]),
            set_limit=rate(),
            terms=rng.choice([0.0, 0.3, 0.8]),
            spends=rng.choice([0.0, 0.3, 1.0]),
            equality=Equality.draw(rng, [*LISTENERS]),
            # As no_room.
            engine=Engine.draw(random.Random(f"engine {seed}")),
        )


def some_limits(rng: random.Random) -> dict[str, LimitSettings]:
    """Those of an app: of `LIMITS` all, one, or none."""
    limits = {
        "steady": LimitSettings(
            "steady", rng.choice(["3/s", "90/min", "30/s", "200/s"]), rng.choice([None, None, 2])
        ),
        "few": LimitSettings("few", rng.choice([None, None, "10/s"]), rng.randint(1, 6), rng.random() < 0.5),
    }
    names = rng.choice([[*LIMITS], [*LIMITS], ["steady"], ["few"], []])
    return {name: limits[name] for name in names}


def some_terms(rng: random.Random, now_ms: int) -> Terms:
    """Each of the terms in some of them."""

    def maybe(chance: float, *values: int) -> int | None:
        return rng.choice(values) if rng.random() < chance else None

    not_before = maybe(0.2, -5_000, 300, 3_000, 30_000)
    return Terms(
        priority=rng.choice([0, 0, -10, -3, 4, 10]),
        not_before_ms=None if not_before is None else now_ms + not_before,
        deadline_ms=maybe(0.15, 0, 300, 2_000, 20_000),
        enough=maybe(0.2, 1, 3, 10),
        max_failures=maybe(0.2, 1, 2, 5),
        budget={"usd": rng.choice([0.25, 2.0, 8.0])} if rng.random() < 0.3 else {},
    )


def some_words(rng: random.Random, names: list[str], talk: float, depth: int = 3) -> str:
    """What is to be done with an item or message, see `handlers.ACTS`."""
    if depth and rng.random() < talk:
        name = rng.choice([*names, "nobody"] if rng.random() < 0.1 else names)
        rest = some_words(rng, names, talk, depth - 1)
        if rng.random() < 0.5:
            return f"to:{name} {rest}"
        return_to = rng.choice(names) if rng.random() < 0.3 else ""
        buffer_id = "given" if rng.random() < 0.05 else ""
        count = rng.choice([0, 1, 2, 3, 5])
        return f"{rng.choice(['fan', 'fan', 'drop'])}:{count}:{name}:{return_to}:{buffer_id} {rest}"
    return rng.choices([*_ACTS], [*_ACTS.values()])[0]


def some_content(
    rng: random.Random, buffer_id: str, items_max: int, listeners: list[str], talk: float, mailbox: str | None
) -> Content:
    """A buffer whose items say what their handler is to do."""
    names = [*listeners, *([mailbox] if mailbox else [])]
    forms = some_forms(rng, rng.randint(1, items_max))
    calm = rng.random() < 0.3
    texts = []
    for index, form in enumerate(forms):
        words = "ok" if calm else some_words(rng, names, talk)
        texts.append(worded(f"item {index} {words}", form))
    target = "nobody" if rng.random() < 0.02 else rng.choice(listeners)
    return_to = mailbox or (rng.choice(listeners) if rng.random() < talk else "")
    return Content(buffer_id, target, rng.random() < 0.8, tuple(texts), forms, return_to)


def some_letters(rng: random.Random, names: list[str], talk: float) -> list[tuple[str, str]]:
    """Messages that a client sends, as (name, text)."""
    return [
        (rng.choice(names), f"item {number} {some_words(rng, names, talk)}")
        for number in range(rng.randrange(4))
    ]


def cuts(rng: random.Random, total: int) -> list[int]:
    """A number of items as chunks."""
    sizes = []
    while total:
        size = rng.randint(1, total) if rng.random() < 0.5 else total
        sizes.append(size)
        total -= size
    return sizes


def run_schedule(
    seed: int,
    folder: Path,
    *,
    handler: Handler = obey,
    tell: Callable[[str], None] | None = None,
    **profile_changes: Any,
) -> Summary:
    """Run the schedule of this seed; `profile_changes`: what is to be another in its profile.

    Raises Violation, or whatever the supervisor should not have raised; both with the story that led there
    as a note.
    """
    profile = replace(Profile.draw(seed), **profile_changes)
    listeners = with_memos(limited_by(LISTENERS, profile.limits), profile.equality.memos)
    app = SimulatedApp(listeners, profile.limits, handler)
    workers = 1 if profile.engine is not None else profile.workers
    machine = Machine(seed, folder, workers=workers, app=app, engine=profile.engine)
    machine.spends = profile.spends
    machine.world.tell = tell
    try:
        _clients_come(machine, profile)
        machine.faults = replace(profile.faults, no_room=profile.no_room)
        with (
            patch.object(dispatch, "BATCH_BYTES_MAX", profile.batch_bytes_max),
            patch.object(attempts, "RETURNS_MAX", RETURNS_MAX),
            profile.equality.constants(),
        ):
            for _ in range(profile.turns):
                machine.turn()
                _befall(machine, profile)
            machine.settle()
        return _summary(machine, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}, {profile}\n{machine.world.story()}")
        raise
    finally:
        machine.close()


def _clients_come(machine: Machine, profile: Profile) -> None:
    rng = machine.rng
    listeners = [*machine.listeners]
    mailboxes = [*_MAILBOXES[: profile.mailboxes]]
    for name in mailboxes:
        letters = some_letters(rng, [*listeners, *mailboxes], profile.talk)
        machine.correspond(name, letters, rng.uniform(0.0, 1.0))
    contents: list[Content] = []
    for number in range(profile.clients):
        mailbox = rng.choice(mailboxes) if mailboxes and rng.random() < 0.5 else None
        content = some_content(rng, f"b{number}", profile.items_max, listeners, profile.talk, mailbox)
        content = equal_items(machine.memos.rng, content, contents, profile.equality.items)
        if contents and rng.random() < profile.same_id:
            earlier = rng.choice(contents)
            content = earlier if rng.random() < 0.5 else replace(content, buffer_id=earlier.buffer_id)
        terms = _maybe_terms(machine, profile)
        content = replace(content, return_to=content.return_to or mailbox or "", terms=terms)
        contents.append(content)
        machine.start_buffer(content, cuts(rng, len(content.texts)), rng.uniform(0.0, 1.0), mailbox)
    for number in range(profile.streams):
        mailbox = rng.choice(mailboxes) if mailboxes and rng.random() < 0.5 else None
        content = some_content(rng, f"s{number}", profile.items_max, listeners, profile.talk, mailbox)
        if rng.random() < profile.empty_stream:
            content = replace(content, texts=(), forms=())
        content = equal_items(machine.memos.rng, content, contents, profile.equality.items)
        content = replace(content, terms=_maybe_terms(machine, profile))
        for _ in range(rng.choice([1, 1, 1, 2])):
            machine.stream(content, Habits.draw(rng), rng.uniform(0.0, 1.0), mailbox)
        if content.texts and rng.random() < profile.same_id:
            machine.start_buffer(content, cuts(rng, len(content.texts)), rng.uniform(0.0, 1.0), mailbox)


def _maybe_terms(machine: Machine, profile: Profile) -> Terms:
    is_said = machine.rng.random() < profile.terms
    return some_terms(machine.rng, machine.clock.now_ms()) if is_said else NO_TERMS


def _befall(machine: Machine, profile: Profile) -> None:
    """What happens between two turns."""
    rng, chance = machine.rng, machine.world.chance
    if chance(profile.kill_worker):
        machine.kill_worker(rng.randrange(100))
    if chance(profile.freeze_worker):
        machine.freeze_worker(rng.randrange(100), rng.choice([0.01, 0.5, 5.0, 20.0, FOR_EVER_S]))
    if chance(profile.disk_full):
        machine.leave_pages(rng.randrange(3))
        machine.world.later(rng.choice([0.01, 0.5, 3.0]), lambda: machine.leave_pages(None))
    if chance(profile.crash):
        machine.crash()
    if chance(profile.break_connection):
        rng.choice(machine.peers).break_connection()
    if chance(profile.vanish):
        rng.choice(machine.peers).vanish()
    if chance(profile.ask_again):
        rng.choice(machine.producers).ask_again()
    if chance(profile.control):
        buffer_id = rng.choice(machine.producers).content.buffer_id
        machine.control(rng.choice(["pause", "pause", "resume", "cancel"]), buffer_id)
    if machine.streamers and chance(profile.another_producer):
        streamer = rng.choice(machine.streamers)
        machine.stream(streamer.content, Habits.draw(rng), 0.0, streamer.mailbox)
    if chance(profile.stop):
        machine.signal("stop")
    if chance(profile.reload):
        lost = rng.choice([*machine.listeners]) if rng.random() < profile.lose_listener * 5 else None
        code = {name: facts for name, facts in machine.listeners.items() if name != lost}
        limits = some_limits(rng) if rng.random() < profile.other_limits else machine.limits
        code, memo_rng = limited_by(code, limits), machine.memos.rng
        if profile.equality.memos and memo_rng.random() < profile.equality.other_memos:
            code = with_memos(code, other_memos(memo_rng, profile.equality.memos))
        machine.new_code(code, limits)
        machine.signal("reload")
    if chance(profile.set_limit):
        rate, running = rng.choice([None, None, "2/s", "50/s"]), rng.choice([None, 1, 5])
        machine.set_limit(rng.choice([*LIMITS]), rate, running)
    if chance(_RESUME) and (paused := machine.paused()):
        machine.control("resume", rng.choice(paused))
    if chance(profile.set_clock):
        machine.set_clock(rng.choice([-60.0, -5.0, 5.0, 3600.0]))


def _summary(machine: Machine, seed: int) -> Summary:
    model = machine.model
    ((buffers, streams, items),) = model.query(
        "SELECT count(*), (SELECT count(DISTINCT buffer_seq) FROM chunk), coalesce(sum(total), 0) FROM buffer"
        " WHERE opened_commit IS NOT NULL"
    )
    return Summary(
        seed=seed,
        turns=machine.turns,
        commits=machine.commits,
        starts=machine.starts,
        crashes=model.crashes,
        buffers=buffers,
        streams=streams,
        items=items,
        messages=model.query("SELECT count(*) FROM message")[0][0],
        executions=sum(model.executions_so_far.values()),
        given_again=machine.memos.given_again,
        has_engine=machine.engine is not None,
        simulated_s=machine.world.now_ns / 1e9,
    )
