"""Chromium on the console, driven as a person would: it opens pages, presses keys, clicks, and looks.

It needs Chromium and its driver from the system, and Selenium. Without them its tests are skipped, and say
what to install. Selenium is told which driver to start: it must not look for one elsewhere.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from consoles import Console
from support import PATIENCE_S, until

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-color-profile=srgb"),
    "--disable-dev-shm-usage",  # containers have little of it
)
FOCUSED = (
    "const e = document.activeElement;"
    "const name = e.tagName + ' '"
    " + (e.id || e.getAttribute('aria-label') || e.textContent.trim().slice(0, 40));"
)
"""What has the focus, and its name."""
NO_SCRIPTS = 2
"""What Chromium's settings call blocked."""


def lacking() -> str:
    """What has to be installed before these tests can run; empty: nothing."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    modules = [name for name in ("selenium", "axe_core_python") if importlib.util.find_spec(name) is None]
    what = []
    if programs:
        what.append(f"{' and '.join(programs)} (Debian: apt-get install chromium chromium-driver)")
    if modules:
        what.append(f"{' and '.join(modules)} (pip install selenium axe-core-python)")
    return f"there is no {', no '.join(what)}" if what else ""


def need_browser() -> None:
    if why := lacking():
        pytest.skip(why)


class Browser:
    """A tab of it. `driver` is Selenium's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.address = ""

    def enter(self, console: Console) -> None:
        """Open the address that the console has printed; what was said before is forgotten."""
        self.address = console.address
        self.driver.get(f"{console.address}/?token={console.token}")
        until(lambda: self.path == "/", "the console has let us in")
        self.log()

    def enter_once(self, console: Console) -> None:
        """Stay where it is if it has entered there; what was said before is forgotten."""
        if self.address == console.address:
            self.log()
        else:
            self.enter(console)

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)

    @property
    def path(self) -> str:
        """Of the page that is open, with its query."""
        parts = urlsplit(self.driver.current_url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def log(self) -> list[str]:
        """What the browser has complained of since this was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; the page's rules about scripts do not hold for it."""
        return self.driver.execute_script(script, *arguments)

    def tell(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return [*self.driver.find_elements("css selector", selector)]

    def text(self, selector: str = "main") -> str:
        """What it says, also where nobody sees it, with single spaces."""
        return str(
            self.run(
                "const e = document.querySelector(arguments[0]);"
                "return (e?.textContent ?? '').replace(/\\s+/g, ' ').trim()",
                selector,
            )
        )

    def says(self, text: str, selector: str = "main") -> None:
        """Wait until it does."""
        until(lambda: text in self.text(selector), f"{selector} says {text!r}")

    def press(self, keys: str) -> None:
        """On the keyboard, whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def click(self, selector: str, text: str = "") -> None:
        """A link or a button; with this text, if that is given. Waits for the page that it leads to."""
        self.leads_on(lambda: self.button(selector, text).click())

    def button(self, selector: str, text: str = "") -> Any:
        found = [one for one in self.all(selector) if text in (one.text or one.get_attribute("textContent"))]
        assert found, f"no {selector} says {text!r}: {self.text()[:2000]}"
        return found[0]

    def leads_on(self, do: Any) -> None:
        """Do something, and wait until another page is there."""
        self.run("window.before = true")
        do()
        until(self.is_another, "another page has come")

    def is_another(self) -> bool:
        from selenium.common.exceptions import WebDriverException

        try:
            return bool(self.run("return window.before === undefined && document.readyState === 'complete'"))
        except WebDriverException:
            return False  # in between

    @property
    def notice(self) -> str:
        return self.text("p.notice[role=status]")

    @property
    def focused(self) -> str:
        """What has the focus: its tag, and its id, or else what it says."""
        return str(self.run(f"{FOCUSED} return name"))

    def wide(self, width: int, height: int = 900) -> None:
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def dark(self, is_dark: bool) -> None:
        value = "dark" if is_dark else "light"
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])


@contextmanager
def browsing(folder: Path, *, scripts: bool = True) -> Iterator[Browser]:
    """A browser of its own, whose files are in this folder."""
    need_browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={folder / 'chromium'}", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        options.add_experimental_option(
            "prefs", {"profile.managed_default_content_settings.javascript": NO_SCRIPTS}
        )
    service = Service(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        driver.set_script_timeout(PATIENCE_S)
        yield Browser(driver)
    finally:
        driver.quit()


def sockets_of(pid: int) -> frozenset[str]:
    """What a process holds open, by their inodes."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return frozenset(inodes)


def connections_of(pid: int, inodes: frozenset[str]) -> int:
    """How many of these sockets are TCP connections. The kernel takes 5 ms of a core to say that."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(fields[3] == "01" and fields[9] in inodes for fields in map(str.split, lines))


def violations(browser: Browser, *rules: str) -> list[str]:
    """What axe finds serious or critical on the page that is open. `rules`: by these only."""
    from axe_core_python.selenium import Axe

    if not browser.run("return 'axe' in window"):
        browser.run(Axe().axe_script)
    # Of what is as it should be axe tells as much, unless it is told not to.
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    options = {"resultTypes": ["violations"], "selectors": False, "preload": False, **only}
    found = browser.driver.execute_async_script("axe.run(arguments[0]).then(arguments[1])", options)
    return [
        f"{one['id']} ({one['impact']}): {json.dumps([node['html'] for node in one['nodes']])[:600]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
