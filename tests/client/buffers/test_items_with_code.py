"""Items that cannot be written for a reason of their own are refused by their index, like all others."""

import dataclasses
from typing import Any

import pydantic
import pytest
from support import Facts

from durable_bus.client.client import Client
from durable_bus.errors import UsageError


class Blob(pydantic.BaseModel):
    data: bytes


class Broken(pydantic.BaseModel):
    x: int = 1

    @pydantic.model_serializer
    def fail(self) -> dict[str, int]:
        raise RuntimeError("mine")


@dataclasses.dataclass
class Deadly:
    x: int

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise RuntimeError("nobody may see it")
        return object.__getattribute__(self, name)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (Blob(data=b"\xff"), "Blob: UnicodeDecodeError: "),
        ([Blob(data=b"\xff")], "list: UnicodeDecodeError: "),
        (Broken(), "Broken: PydanticSerializationError: "),
        (10**5000, "int: ValueError: Exceeds the limit"),
        (Deadly(1), "Deadly: "),
    ],
    ids=["bytes", "bytes inside", "a serializer", "too many digits", "a property"],
)
def test_an_item_that_cannot_be_written_is_refused_by_its_index(
    client: Client, facts: Facts, item: object, why: str
) -> None:
    with pytest.raises(UsageError, match=rf"^item 1: it cannot be journaled: {why}") as refused:
        client.start("echo", ["good", item], buffer_id="with-code")
    assert "\n" not in str(refused.value)
    assert facts.rows("SELECT 1 FROM buffers WHERE buffer_id = 'with-code'") == []
