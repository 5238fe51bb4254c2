"""Messages between named clients: their app, their states, and texts that look like XML and are none."""

from support import Facts

from durable_bus import Xml

APP = "apps.talking:bus"

NOT_XML = [
    "<a>",
    "<b>just text a human typed",
    "<a/><b/>",
    '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
    Xml("plain"),
    Xml(""),
]


def states(facts: Facts, to_id: str) -> list[str]:
    rows = facts.rows("SELECT state FROM messages WHERE to_id = ? ORDER BY created_at", to_id)
    return [state for (state,) in rows]
