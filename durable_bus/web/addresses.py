"""Which hosts and paths are the console's own.

A page of another site can have its name point to our address (DNS rebinding). Its requests come from the
user's browser then, to the right address, and only the Host header says for whom they are meant. So it is
looked at in every request, and a name that nobody has given us is refused.
"""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["host_check", "is_loopback", "local_path", "with_parameter", "without_parameter"]

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_HTTP_PORT = 80
_PLAIN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""Printable ASCII without a backslash: browsers take `/\\evil` and a tab inside `//` for another site."""


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_check(host: str, port: int) -> Callable[[str], bool]:
    """Says of a Host header whether it means us, who were told to listen at `host`.

    On loopback: 127.0.0.1, localhost, [::1], and `host` itself. Elsewhere also every literal address:
    rebinding needs a name. The port must be ours; it may be missing where it is HTTP's own.
    """
    names = {"127.0.0.1", "localhost", "[::1]", _in_header(host)}
    literal_addresses = not is_loopback(host)

    def is_ours(header: str) -> bool:
        found = _HOST.fullmatch(header.lower())
        if found is None or int(found[2] or _HTTP_PORT) != port:
            return False
        return found[1] in names or (literal_addresses and _is_address(found[1]))

    return is_ours


def _in_header(host: str) -> str:
    return f"[{host.lower()}]" if ":" in host else host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return name.startswith("[") == (":" in name)


def local_path(text: str) -> str:
    """The path, with its query, if a browser cannot take it for an address elsewhere; else "/"."""
    return text if _PLAIN_PATH.fullmatch(text) else "/"


def with_parameter(path: str, name: str, value: str) -> str:
    """A local path whose query says this, once."""
    _, _, plain, query, fragment = urlsplit(without_parameter(path, name))
    query = "&".join(filter(None, [query, urlencode({name: value})]))
    return urlunsplit(("", "", plain, query, fragment))


def without_parameter(path: str, name: str) -> str:
    """A local path whose query does not say this. What else it says stays as it is written."""
    path, hash_mark, fragment = local_path(path).partition("#")
    before, mark, query = path.partition("?")
    kept = [part for part in query.split("&") if part and not _says(part, name)]
    mark = mark if kept else ""
    return f"{before}{mark}{'&'.join(kept)}{hash_mark}{fragment}"


def _says(part: str, name: str) -> bool:
    return any(said == name for said, _ in parse_qsl(part, keep_blank_values=True))
