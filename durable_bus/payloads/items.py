"""Items on their way into the journal: their digest, the same for a client and for a handler's start."""

__all__ = ["ItemsDigest"]


class ItemsDigest:
    """A digest of a buffer's items and their forms, which does not depend on where chunks are cut."""

    def __init__(self) -> None:
        import hashlib  # 5 ms, which a worker pays only when a handler starts a buffer

        self._sha256 = hashlib.sha256
        self._texts, self._forms = hashlib.sha256(), hashlib.sha256()

    def update(self, body: bytes, forms: bytes) -> None:
        """Add a chunk: its body (`payloads.packing`), and the form of each item."""
        self._texts.update(body)
        self._forms.update(forms)

    def hexdigest(self) -> str:
        return self._sha256(self._texts.digest() + self._forms.digest()).hexdigest()
