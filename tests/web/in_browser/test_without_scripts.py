"""A browser that runs no script: every page, filter and action is there, and so is the slider."""

from collections.abc import Iterator

import pytest
from acting import ACTIONS, Acting
from browser import Browser, browsing
from consoles import Console
from everything import Everything
from support import Facts

from durable_bus.client.client import Client


@pytest.fixture(scope="module")
def bare_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("bare"), scripts=False) as browser:
        yield browser


@pytest.fixture
def bare(bare_browser: Browser, web: Console) -> Browser:
    bare_browser.enter_once(web)
    return bare_browser


def test_no_script_runs(bare: Browser) -> None:
    bare.open("/")
    assert bare.all("html.js") == []
    assert bare.all("#pause")
    assert not bare.one("#pause").is_displayed(), "a button that would do nothing is not there"


def test_every_page_is_there(bare: Browser, addresses: list[str]) -> None:
    for address in addresses:
        bare.open(address)
        assert bare.all("main#main h1"), address
        assert [line for line in bare.log() if "404" not in line] == []


def test_the_slider_has_a_button(bare: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    bare.open("/buffers?state=open")
    slider = bare.one("#slider input[type=range]")
    slider.send_keys(Keys.HOME)
    bare.click("#slider button", "Look")
    assert bare.path.startswith("/buffers?state=open&at=")
    assert bare.all(".time-bar.past")
    bare.one("#at").clear()
    bare.one("#at").send_keys("31")
    bare.click("button", "Go")
    assert sorted(bare.path.partition("?")[2].split("&")) == ["at=31", "state=open"]
    bare.click("a", "Back to now")
    assert bare.path == "/buffers?state=open"


def test_filters(bare: Browser, rows: Facts) -> None:
    bare.open("/buffers")
    bare.one("#search").send_keys("lain")
    bare.click("main button", "Show")
    assert [link.get_attribute("title") for link in bare.all("tbody a[title]")][-1] == "plain"
    bare.open("/buffers/failing")
    bare.one("select[name=state] option[value=failed]").click()
    bare.click("#items button", "Show")
    shown = len(bare.all("#items tbody tr"))
    assert shown == rows.value("SELECT failed FROM buffers WHERE buffer_id = 'failing'")
    bare.open("/questions")
    bare.one("#sql").send_keys("SELECT buffer_id FROM buffers WHERE state = 'pruned'")
    bare.click("button", "Ask")
    assert "old" in bare.text("tbody")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_person(action: str, bare: Browser, alive: Everything, client: Client) -> None:
    getattr(Acting(bare, alive, client, scripts=False), action)()
