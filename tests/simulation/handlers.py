"""What simulated handlers answer. `obey` is the default; a test hands in another function of the same kind.

An item says what is to be done with it: `item 3 to:once slow` is forwarded to `once`, which takes long and
answers. See `ACTS` for the words.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from durable_bus.errors import WorkerDeath, WorkerExited, WorkerKilled
from durable_bus.payloads import outcomes
from durable_bus.payloads.forms import TEXT, XML, digits_of
from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.packing import pack
from durable_bus.payloads.settings import ValueForms
from durable_bus.wire.work import Work, WorkMessage
from simulation.forms import some_form, some_forms, worded, words_of

__all__ = ["FOR_EVER_S", "Answers", "Call", "Dies", "Handler", "Handling", "Outcome", "Raises", "obey"]

FOR_EVER_S = float("inf")


@dataclass(frozen=True)
class Call:
    """What a handler is called with."""

    rng: random.Random
    listener: str
    text: str
    form: int
    attempt: int
    before: int
    """How often this item or message was begun before, in any run."""
    work: Work
    """What the frame says: an item's dispatch, or a message."""
    index: int

    @property
    def is_message(self) -> bool:
        return isinstance(self.work, WorkMessage)


@dataclass(frozen=True)
class Answers:
    """The handler returns this after so long."""

    seconds: float
    text: str
    success: bool = True
    form: int = TEXT


@dataclass(frozen=True)
class Raises:
    """The attempt fails: `exception`, `malformed`, `answer` or `retry_after`."""

    seconds: float
    kind: str
    message: str = "simulated"
    final: bool = False
    """Its listener does not retry this exception."""
    after_s: float | None = None
    limit: str = ""
    """By RetryAfter: when it is to come back, and which limit is to rest until then."""


@dataclass(frozen=True)
class Outcome:
    """The handler passes its work on: an entry of `outcomes` in the frame of answers, and its body."""

    seconds: float
    what: outcomes.Outcome
    body: bytes


@dataclass(frozen=True)
class Dies:
    """The handler takes its worker's process down."""

    seconds: float
    death: WorkerDeath = field(default_factory=lambda: WorkerKilled(11))


FORMS = ValueForms("json", pickle=True)
"""What the app says of how it writes values."""
UNWRITABLE = "{1, 2}"
"""The repr of an answer that cannot be written."""

Handling = Answers | Raises | Outcome | Dies
Handler = Callable[[Call], Handling]

ACTS = {
    "ok": "answers",
    "slow": "answers after a while",
    "huh": "answers with a Huh",
    "none": "returns None",
    "raise": "raises; raise:2 at the first two attempts only",
    "final": "raises what its listener does not retry",
    "later": "later:0.5:steady:2 raises RetryAfter(0.5, 'steady') at the first two times only, later:0.5::2"
    " names no limit; then it does what comes next",
    "malformed": "the payload does not load",
    "unserialisable": "the answer cannot be sent",
    "die": "ends the process; die:1 at the first time only",
    "hang": "never answers; hang:1 at the first time only",
    "to": "to:NAME forwards the rest of the words to a name",
    "fan": "fan:3:NAME starts a buffer of three items there with the rest of the words, fan:3:NAME:OTHER has"
    " its completion returned to another name",
    "drop": "the same without collecting",
}


def obey(call: Call) -> Handling:
    """A handler that does what its payload says. No two answers are alike, so that it can be told which of
    them was recorded.
    """
    words = words_of(call.text, call.form).split()
    if words[:1] != ["item"]:
        return _handle_unscripted(call)
    what, _, detail = words[2].partition(":")
    rest = " ".join([*words[:2], *(words[3:] or ["ok"])])
    seconds = _seconds(call.rng)
    times = int(detail) if detail.isdecimal() else 1_000_000
    if what == "to":
        form = some_form(call.rng)
        return Outcome(seconds, outcomes.Forward(detail, form), pack([worded(rest, form)]))
    if what in ("fan", "drop"):
        return _fan_out(call, seconds, detail.split(":"), rest, collect=what == "fan")
    if what == "none":
        return Outcome(seconds, outcomes.End(), b"") if call.is_message else Answers(seconds, "")
    if what == "raise" and call.before < times:
        return Raises(seconds, "exception")
    if what == "final":
        return Raises(seconds, "exception", final=True)
    if what == "later":
        after_s, limit, returns = detail.split(":")
        if call.before < int(returns):
            return Raises(seconds, "retry_after", after_s=float(after_s), limit=limit)
        return obey(replace(call, text=worded(rest, call.form)))
    if what == "malformed":
        return Raises(0.0, "malformed")
    if what == "unserialisable":
        return Raises(seconds, "answer")
    if what == "die" and call.before < times:
        return Dies(seconds, call.rng.choice([WorkerKilled(11), WorkerExited(3)]))
    if what == "hang" and call.before < times:
        return Answers(FOR_EVER_S, "never")
    if what == "slow":
        seconds = call.rng.uniform(0.1, 0.5)
    if what == "huh":
        return Answers(seconds, f"<Huh><error>{_unique(call)}</error></Huh>", success=False, form=XML)
    return _answer(call, seconds)


def _unique(call: Call) -> str:
    return f'{call.listener} "{call.rng.getrandbits(32):08x}" \\ \n\u2028é😀'


def _answer(call: Call, seconds: float) -> Answers:
    form = some_form(call.rng)
    return Answers(seconds, worded(_unique(call), form), form=form)


def _handle_unscripted(call: Call) -> Handling:
    """A response, a BufferComplete, an error: mostly answered."""
    seconds = _seconds(call.rng)
    chance = call.rng.random()
    if chance < 0.05:
        return Raises(seconds, "exception")
    if chance < 0.08:
        return Dies(seconds)
    if chance < 0.15:
        return Outcome(seconds, outcomes.End(), b"")
    return _answer(call, seconds)


def _fan_out(call: Call, seconds: float, details: list[str], rest: str, *, collect: bool) -> Outcome:
    """Every attempt starts other items, so that it can be told which of them was carried out. Two of them
    are equal but for their form.
    """
    count, target, return_to, buffer_id, *_ = [*details, "", ""]
    marker = f"{call.rng.getrandbits(40):010x}"
    texts = [
        f"item {marker}.{index // 2} {rest.partition(' ')[2].partition(' ')[2]}"
        for index in range(int(count))
    ]
    forms = some_forms(call.rng, len(texts))
    texts = [worded(text, form) for text, form in zip(texts, forms, strict=True)]
    digest = ItemsDigest()
    if texts:
        digest.update(pack(texts), bytes(forms))
    return Outcome(
        seconds,
        outcomes.Start(
            target=target,
            collect=collect,
            return_to=return_to,
            buffer_id=buffer_id,
            count=len(texts),
            forms=digits_of(bytes(forms)),
            digest=digest.hexdigest(),
        ),
        pack(texts),
    )


def _seconds(rng: random.Random) -> float:
    chance = rng.random()
    if chance < 0.85:
        return rng.uniform(0.0002, 0.003)
    return rng.uniform(0.003, 0.03) if chance < 0.97 else rng.uniform(0.03, 0.3)
