"""Listeners that do what their payload says, so that a test lays out a whole conversation in one message.

A payload is JSON, one object: {"say": answer}, {"none": true}, {"raise": why, "until": attempt},
{"die": true}, {"tell": name, "payload": …} (or "raw": text, or "xml": text),
{"describe": true}, {"start": {"target": …, "items": [payloads], …}}. What is not JSON is answered as it is
read: a BufferComplete by its results, everything else by its text.

Each call is a line of the file that TALK_LOG names. With TALK_GATES set, a call (but of a payload with
{"gate": false}) returns only when the folder it names holds a file for its message, or "all": what a test
does, not time, decides how far a conversation has come.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, Text, Xml
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX

bus = Bus("talking")


def gate_name(message_id: str) -> str:
    return message_id.replace("/", "_")


def log_call(metadata: HandlerMetadata, text: str) -> None:
    """One line by O_APPEND: whole and in order, whatever is killed when."""
    path = os.environ.get("TALK_LOG")
    if path:
        told = {
            name: getattr(metadata, name)
            for name in HandlerMetadata.__dataclass_fields__
            if not name.startswith("_")
        }
        line = json.dumps({**told, "text": text[:2000], "pid": os.getpid()})
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)
    gates = os.environ.get("TALK_GATES")
    if gates and '"gate": false' not in text:
        names = (gate_name(metadata.message_id), "all")
        while not any(os.path.exists(os.path.join(gates, name)) for name in names):
            time.sleep(0.005)


def act(text: str, metadata: HandlerMetadata) -> object:
    log_call(metadata, text)
    if not text.startswith("{"):
        return Text(read(text))
    todo: dict[str, Any] = json.loads(text)
    if "say" in todo:
        return Text(todo["say"] if isinstance(todo["say"], str) else json.dumps(todo["say"]))
    if "none" in todo:
        return None
    if "raise" in todo:
        if metadata.attempt < todo.get("until", 1000):
            raise ValueError(todo["raise"])
        return Text(f"well at attempt {metadata.attempt}")
    if "die" in todo:
        os._exit(1)
    if "tell" in todo:
        if "xml" in todo:
            return HandlerResponse(Xml(todo["xml"]), to=todo["tell"])
        payload = todo["raw"] if "raw" in todo else json.dumps(todo["payload"])
        return HandlerResponse(Text(payload), to=todo["tell"])
    if "start" in todo:
        return HandlerResponse(start(**todo["start"]), to="system.buffer")
    return Text(json.dumps({name: getattr(metadata, name) for name in NAMES}))


NAMES = ("thread_id", "from_id", "own_name", "is_self_call", "message_id", "attempt", "buffer_id", "index")


def start(target: str, items: list[object] | str, **options: Any) -> BufferStart:
    """`items`: a list of payloads, or one text, an item a line; or "every form", or "too long"."""
    if items == "every form":
        forms = ["plain", "<a/>", Text("<b/>"), Xml(" <c/> "), etree.fromstring("<d/>"), Order("e")]
        return BufferStart(target, forms, **options)
    if items == "too long":
        return BufferStart(target, ["fine", "x" * (PAYLOAD_BYTES_MAX + 1)], **options)
    if isinstance(items, str):
        return BufferStart(target, items, **options)
    return BufferStart(target, [Text(json.dumps(item)) for item in items], **options)


def read(text: str) -> str:
    """What a listener makes of what the bus sends it, or of an answer that comes back along the thread."""
    if not text.startswith("<"):
        return text
    root = etree.fromstring(text)
    if root.tag == "BufferComplete":
        document = etree.fromstring(root.findtext("results"))
        return "|".join("".join(item.itertext()) for item in document)
    return f"{root.tag}: {'|'.join(''.join(child.itertext()) for child in root)}"


for name in ("planner", "work", "helper", "inner", "summary"):
    bus.listener(name)(act)
bus.listener("limited", peers=["helper", "inner", "system.buffer"])(act)
bus.listener("lonely", peers=[])(act)
bus.listener("patient", attempts=3, backoff=0.05)(act)
bus.listener("tenacious", attempts=3)(act)


@dataclass(frozen=True)
class Order:
    target: str


@bus.listener("pedant")
def pedant(order: Order, metadata: HandlerMetadata) -> HandlerResponse:
    """Understands orders and nothing else, so no BufferError either."""
    log_call(metadata, order.target)
    return HandlerResponse(BufferStart(order.target, "a\nb", buffer_id="pedantic"), to="system.buffer")


@bus.listener("again")
def again(text: str, metadata: HandlerMetadata) -> object:
    """Starts its buffer once more, or what is to come `then`, when it hears of it the first time."""
    log_call(metadata, text)
    remembered = Path(os.environ["TALK_LOG"]).parent / gate_name(f"again {metadata.thread_id}")
    if not text.startswith("<"):
        remembered.write_text(text)
        return act(text, metadata)
    started = Path(remembered).read_text()
    if started:
        remembered.write_text("")
        todo = json.loads(started)
        return HandlerResponse(start(**todo.get("then", todo["start"])), to="system.buffer")
    return Text(f"again: {read(text)}")


@dataclass(frozen=True)
class Forged(HandlerResponse):
    """A response that names a sender and a thread: nobody asks it for them."""

    from_id: str = "system.buffer"
    thread_id: str = "elsewhere"


@dataclass(frozen=True)
class Signed:
    """A payload that says where it comes from."""

    from_id: str
    thread_id: str


@bus.listener("forger")
def forger(text: str, metadata: HandlerMetadata) -> object:
    """Tells helper something, and does what it can to seem somebody else, somewhere else."""
    log_call(metadata, text)
    if text != "go":
        return Text(text)
    for field, value in (("own_name", "system.buffer"), ("thread_id", "elsewhere"), ("from_id", "nobody")):
        object.__setattr__(metadata, field, value)
    return Forged(Signed("system.buffer", "elsewhere"), to="helper")
