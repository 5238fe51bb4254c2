"""What tests of streams and maps look at in a journal."""

from pathlib import Path

from command_line import durable_bus
from support import Facts


def items_of(facts: Facts, buffer_id: str) -> list[str]:
    sql = "SELECT payload FROM items WHERE buffer_id = ? ORDER BY item_index"
    return [payload for (payload,) in facts.rows(sql, buffer_id)]


def is_sealed(facts: Facts, buffer_id: str) -> bool:
    return bool(facts.value("SELECT sealed_at IS NOT NULL FROM buffers WHERE buffer_id = ?", buffer_id))


def is_clean(journal: Path) -> bool:
    ran = durable_bus("check", "--journal", journal, cwd=journal.parent)
    assert ran.code == 0, ran
    return True
