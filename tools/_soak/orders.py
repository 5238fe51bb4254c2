"""What clients ask for, and what is a right answer to it."""

import random
from dataclasses import dataclass

TARGETS = {"echo": 40, "nap": 20, "doze": 15, "relay": 10, "fan": 10, "refuse": 4, "poison": 1}


@dataclass
class Order:
    """A buffer that a client starts; the same for the same seed and id."""

    buffer_id: str
    target: str
    items: list[str]

    @classmethod
    def of(cls, seed: int, buffer_id: str) -> "Order":
        rng = random.Random(f"{seed} {buffer_id}")
        (target,) = rng.choices(list(TARGETS), list(TARGETS.values()))
        most = {"echo": 3000, "refuse": 20, "poison": 2, "fan": 10}.get(target, 100)
        count = rng.randint(1, most) if rng.random() < 0.3 else rng.randint(1, min(most, 10))
        items = [f"{rng.randint(0, 20)} {buffer_id}#{index}" for index in range(count)]
        return cls(buffer_id, target, items)

    def is_right(self, index: int, success: bool, payload: str) -> bool:
        """Whether this may be the result of that item. A good item may have failed as lost: its workers were
        killed.
        """
        if not success:
            return self.target in ("refuse", "poison") or "<code>lost</code>" in payload
        if self.target == "fan":
            return payload in ("0", "1", "2", "3")
        return self.target not in ("refuse", "poison") and payload == self.items[index]
