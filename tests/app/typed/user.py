"""What a user writes, with mistakes that a type checker must see: each on a line that ends with `# error`."""

from dataclasses import dataclass

from lxml import etree

from durable_bus import (
    Buffer,
    BufferComplete,
    BufferError,
    BufferStart,
    Bus,
    Client,
    DurableBusError,
    HandlerMetadata,
    HandlerResponse,
    Result,
    RetryAfter,
    Text,
)

bus = Bus("audit")
bus.limit("openai", rate="500/min", running=40, adaptive=True)
bus.limit("files", runing=2)  # error
bus.limit("files", rate=500)  # error


@dataclass(frozen=True)
class Source:
    path: str


@bus.listener("audit", timeout=30, attempts=2, backoff=0.5)
def audit(source: Source, metadata: HandlerMetadata) -> int:
    return metadata.attempt + len(source.path)


@bus.listener("fetch", timeout=None, concurrency=500, peers=["audit", "system.buffer"])
async def fetch(payload: etree._Element) -> HandlerResponse:
    return HandlerResponse(BufferStart("audit", ["a", Text("b")]), to="system.buffer")


length: int = audit(Source("a"), HandlerMetadata("t", "f", "o", False, "m", 1))
wrong_length: str = audit(Source("a"), HandlerMetadata("t", "f", "o", False, "m", 1))  # error
audit("a", 1)  # error


@bus.listener("x", timeouts=3)  # error
def misspelt_option(text: str) -> str:
    return text


@bus.listener("y", attempts="2")  # error
def wrong_type(text: str) -> str:
    return text


@bus.listen("z")  # error
def misspelt_decorator(text: str) -> str:
    return text


@bus.listener(
    "ask", limits=["openai"], retry_on=(OSError, TimeoutError), backoff_max=60, jitter=0.5, memo="v1"
)
async def ask(prompt: str, metadata: HandlerMetadata) -> str:
    metadata.spend(usd=0.002, tokens=812)
    metadata.spend(usd="0.002")  # error
    metadata.spent(usd=1)  # error
    error = RetryAfter(12, limit="openai", message="429")
    print(error.seconds + 1, error.limits)  # error
    raise RetryAfter("12")  # error


@bus.listener("a", limits="openai")  # error
def limits_of_a_text(text: str) -> str:
    return text


@bus.listener("b", retry_on=KeyError("x"))  # error
def an_exception_for_its_class(text: str) -> str:
    return text


@bus.listener("c", memo=True, jiter=1)  # error
def no_text_for_a_memo(text: str) -> str:
    return text


def use() -> None:
    with bus.running("journal.db", workers=4, durability="normal", name="cli", grace=1.0) as client:
        buffer: Buffer = client.start("audit", [Source("a")], buffer_id="b", collect=True)
        complete: BufferComplete = buffer.wait(timeout=3)
        print(complete.total, complete.results, complete.result)  # error
        for result in buffer.results():
            print(result.index + 1, result.success, result.payload.upper(), result.error, result.duration_ms)
            print(result.payloads)  # error
            result.error.upper()  # error
        for later in buffer.as_completed():
            same: Result = later
            print(same.attempt, buffer.status().pending)
        client.strat("audit", [])  # error
        client.start("audit", [], colect=False)  # error
        client.start("audit", 3)  # error
        number: int = client.send("audit", Source("a"))  # error
        client.acknowledge(client.receive(timeout=1))
        print(client.receive().payload, number)


def misuse() -> None:
    bus.running(worker=2)  # error
    bus.running(durability="ful")  # error
    bus.runing()  # error
    Client("journal.db", nam="cli")  # error
    try:
        Client("journal.db").cancel("b")
    except BufferError as error:
        print(error.buffer_id, error.exit_code)
        print(error.bufer_id)  # error
    except DurableBusError:
        pass
