"""Items on their way into the journal: their digest and their forms, the same for a client and for a
handler's start.
"""

__all__ = ["ItemsDigest", "form_and_exceptions"]


class ItemsDigest:
    """A digest of a buffer's items and their forms, which does not depend on where chunks are cut."""

    def __init__(self) -> None:
        import hashlib  # 5 ms, which a worker pays only when a handler starts a buffer

        self._sha256 = hashlib.sha256
        self._texts, self._forms = hashlib.sha256(), hashlib.sha256()

    def update(self, body: bytes, forms: list[bool]) -> None:
        """Add a chunk: its body (`payloads.packing`), and whether each item is XML."""
        self._texts.update(body)
        self._forms.update(bytes(forms))

    def hexdigest(self) -> str:
        return self._sha256(self._texts.digest() + self._forms.digest()).hexdigest()


def form_and_exceptions(forms: list[bool]) -> tuple[int, list[int]]:
    """The form most items have (1: XML, 0: text), and the positions of those that have the other."""
    mostly = sum(forms) * 2 >= len(forms)
    if all(forms) or not any(forms):
        return int(mostly), []
    return int(mostly), [position for position, is_xml in enumerate(forms) if is_xml != mostly]
