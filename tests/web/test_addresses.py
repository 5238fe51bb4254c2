"""Which hosts and paths are ours."""

import pytest

from durable_bus.web.addresses import host_check, is_loopback, local_path, with_parameter, without_parameter


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True),
        ("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("box", False), ("localhost.evil", False),
    ],
)  # fmt: skip
def test_loopback_is_this_machine_only(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.example"])
def test_elsewhere_every_literal_address_is_ours_and_of_names_only_the_given_one(host: str) -> None:
    is_ours = host_check(host, 8383)
    ours = ["192.168.1.5:8383", "[fe80::1]:8383", "localhost:8383", "127.0.0.1:8383", "[::1]:8383"]
    assert [name for name in ours if not is_ours(name)] == []
    assert is_ours("BOX.example:8383") is (host == "box.example")
    others = [
        "evil.example:8383", "192.168.1.5", "192.168.1.5:80", "192.168.1.5:8384", "1.2.3:8383", "",
        "fe80::1:8383", "[1.2.3.4]:8383", "[fe80::1:8383", "192.168.1.5:8383:8383", "192.168.1.5:08383x",
        ":8383", "a b:8383",
    ]  # fmt: skip
    assert [name for name in others if is_ours(name)] == []


def test_the_port_of_http_may_be_missing() -> None:
    assert host_check("127.0.0.1", 80)("localhost")
    assert host_check("127.0.0.1", 80)("localhost:80")
    assert not host_check("127.0.0.1", 8383)("localhost")


@pytest.mark.parametrize("path", ["/", "/a/b?c=d&e=%2F#f", "/a//b", "/%2f%2fevil"])
def test_a_path_of_ours_stays_as_it_is(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "a", "//a", "/\\a", "\\a", "http://a", "javascript:a", "/\ta", "/a\n", " /a", "/ü", "/a b", "/\x00"],
)
def test_what_may_lead_elsewhere_leads_to_the_first_page(path: str) -> None:
    assert local_path(path) == "/"


def test_a_parameter_is_put_in_place_of_itself() -> None:
    assert with_parameter("/a", "n", "1") == "/a?n=1"
    assert with_parameter("/a?", "n", "1") == "/a?n=1"
    assert with_parameter("/a?b=%26&n=0&c", "n", "&1") == "/a?b=%26&c&n=%261"
    assert with_parameter("/a?n=0#n", "n", "1") == "/a?n=1#n"
    assert with_parameter("//evil", "n", "1") == "/?n=1"
    assert without_parameter("/a?token=x&%74oken=y&nottoken=z", "token") == "/a?nottoken=z"
    assert without_parameter("/a#b?token=x", "token") == "/a#b?token=x"
