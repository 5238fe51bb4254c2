"""Actions by clicking: a notice says what has come of each, and SQL says the same."""

import pytest
from acting import ACTIONS, Acting
from browser import Browser
from consoles import Console
from everything import Everything

from durable_bus.client.client import Client


@pytest.mark.parametrize("action", ACTIONS)
def test_a_person(action: str, browser: Browser, alive: Everything, client: Client) -> None:
    getattr(Acting(browser, alive, client, scripts=True), action)()
    assert browser.log() == []


def test_a_console_that_only_reads_has_nothing_to_click(
    browser: Browser, alive: Everything, addresses: list[str]
) -> None:
    with Console(alive.journal, "--read-only") as console:
        browser.enter(console)
        for address in addresses:
            browser.open(address)
            assert browser.all("form[method=post]") == []
