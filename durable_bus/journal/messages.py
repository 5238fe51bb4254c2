"""What the journal's writer does with messages, threads and mailboxes. Every method belongs inside
`Journal.commit()`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["MessageTable"]


class MessageTable:
    """Messages, from a name to a name on a thread."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self._statements = journal.statements

    def add(
        self,
        *,
        message_id: str,
        kind: str,
        from_id: str,
        to_id: str,
        thread_id: str,
        payload: str,
        is_xml: bool = True,
        buffer_seq: int | None = None,
        settled: bool = False,
        failed: bool = False,
    ) -> int:
        """A message to be delivered; its `message_seq`. `settled`: there is nobody to deliver it to, it is
        the record.
        """
        return self._statements.insert(
            "add_message",
            message_id=message_id,
            kind=kind,
            from_id=from_id,
            to_id=to_id,
            thread_id=thread_id,
            payload=payload,
            is_xml=is_xml,
            buffer_seq=buffer_seq,
            settled=settled,
            failed=failed,
            commit_id=self._journal.commit_id,
        )
