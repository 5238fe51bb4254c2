"""What a person does by clicking, with scripts and without: the same notice, and the same in the journal."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from browser import Browser
from everything import Everything
from support import until

from durable_bus import Text
from durable_bus.client.client import Client


class Acting:
    """Each of its methods is one action, on buffers of its own. `scripts`: questions are asked before."""

    def __init__(self, browser: Browser, alive: Everything, client: Client, *, scripts: bool) -> None:
        self.browser = browser
        self.folder = alive.folder
        self.rows = alive.facts
        self.client = client
        self.scripts = scripts
        self.kind = "scripted" if scripts else "plain"

    def name(self, what: str) -> str:
        return f"{what}-{self.kind}"

    @contextmanager
    def running(self, what: str) -> Iterator[str]:
        """A buffer whose items wait until this is over."""
        gate, buffer_id = self.folder / f"gate-{self.name(what)}", self.name(what)
        self.client.start("work", [Text(f"gate {gate}")] * 4, buffer_id=buffer_id)
        self.browser.open(f"/buffers/{buffer_id}")
        try:
            yield buffer_id
        finally:
            gate.touch()

    def does(self, label: str, notice: str) -> None:
        """Click a button of this page, and be told."""
        self.browser.click("button", label)
        assert self.browser.notice == notice
        assert "notice=" in self.browser.path

    def value(self, sql: str, *parameters: object) -> object:
        return self.rows.value(sql, *parameters)

    def pauses_and_resumes(self) -> None:
        with self.running("pause") as buffer_id:
            paused = "SELECT paused FROM buffers WHERE buffer_id = ?"
            # With scripts the page has another button of this name, which pauses only the page.
            self.browser.click(f"form[action='/buffers/{buffer_id}/pause'] button", "Pause")
            assert self.browser.notice == f"{buffer_id} is paused"
            assert self.value(paused, buffer_id) == 1
            self.browser.says("paused", "h1")
            self.does("Resume", f"{buffer_id} is open")
            assert self.value(paused, buffer_id) == 0

    def cancels(self) -> None:
        with self.running("cancel") as buffer_id:
            state = "SELECT state FROM buffers WHERE buffer_id = ?"
            if self.scripts:
                self.browser.button("button", "Cancel").click()
                question = self.browser.driver.switch_to.alert
                assert question.text.startswith(f"Cancel {buffer_id}?")
                question.dismiss()
                assert self.value(state, buffer_id) == "open"
                self.browser.leads_on(lambda: self._agree("Cancel"))
            else:
                self.browser.click("button", "Cancel")
            assert self.browser.notice == f"{buffer_id} is cancelled"
            assert self.value(state, buffer_id) == "cancelled"

    def _agree(self, label: str) -> None:
        self.browser.button("button", label).click()
        self.browser.driver.switch_to.alert.accept()

    def retries(self) -> None:
        buffer_id = self.name("retry")
        items = ["bad one 1", "bad other x", "fine", "bad one 2"]
        self.client.start("work", [Text(item) for item in items], buffer_id=buffer_id).wait(60)
        self.browser.open(f"/buffers/{buffer_id}")
        self.does("Retry what failed", f"{buffer_id}.retry1 has started")
        assert self.value("SELECT total FROM buffers WHERE retry_of = ?", buffer_id) == 3
        row = next(row for row in self.browser.all("tr") if "bad one" in row.text)
        self.browser.leads_on(lambda: row.find_element("css selector", "button").click())
        assert re.fullmatch(rf"{buffer_id}\.\S+ has started, with 2 items", self.browser.notice)
        totals = self.rows.rows("SELECT total FROM buffers WHERE retry_of = ? ORDER BY created_at", buffer_id)
        assert totals == [(3,), (2,)]

    def changes_a_limit(self) -> None:
        self.browser.open("/workers")
        rate = f"{4000 if self.scripts else 5000}/min"
        field = self.browser.one("input[name=rate]")
        field.clear()
        field.send_keys(rate)
        self.does("Set", f"api: {rate}, 2 at once, set by hand")
        assert self.value("SELECT rate FROM limits WHERE name = 'api'") == rate
        self.browser.click("button", "As the app says")
        assert self.browser.notice == "api: 6000/min, 3 at once, as the app says"
        # What the change makes the page load of the journal leaves the notice there.
        if self.scripts:
            until(lambda: "by the app" in self.browser.text("main table tr:has(input)"), "the page goes on")
            assert self.browser.notice == "api: 6000/min, 3 at once, as the app says"
        assert self.value("SELECT by_hand FROM limits WHERE name = 'api'") == 0
        self.client.set_limit("api", running=2)

    def responds(self) -> None:
        buffer_id = self.name("ask")
        self.client.start("person-asks", [Text(f"what is {buffer_id}?")], buffer_id=buffer_id)
        sql = "SELECT message_id FROM messages WHERE to_id = 'person' AND payload = ?"
        message_id = self.rows.until(sql, f"what is {buffer_id}?")
        self.browser.open("/messages?to=person&state=waiting")
        self.browser.open(f"/messages/{message_id}")
        self.browser.one("#payload").send_keys("it is <this> & that")
        self.does("Respond", f"message {message_id} is answered")
        self.rows.until("SELECT completed FROM buffers WHERE buffer_id = ?", buffer_id)
        answer = self.value("SELECT payload FROM results WHERE buffer_id = ?", buffer_id)
        assert answer == "the person says it is <this> & that"
        assert self.value("SELECT state FROM messages WHERE message_id = ?", message_id) == "settled"

    def prunes(self) -> None:
        self.browser.open("/time")
        field = self.browser.one("input[name=older_than]")
        field.clear()
        field.send_keys("30d")
        pruned = self.value("SELECT count(*) FROM buffers WHERE state = 'pruned'")
        if self.scripts:
            self.browser.leads_on(lambda: self._agree("Prune"))
        else:
            self.browser.click("button", "Prune")
        assert self.browser.notice == "0 buffers pruned"
        assert self.value("SELECT count(*) FROM buffers WHERE state = 'pruned'") == pruned

    def is_told_what_cannot_be(self) -> None:
        self.browser.open("/workers")
        field = self.browser.one("input[name=rate]")
        field.clear()
        field.send_keys("as fast as <you> can")
        self.browser.click("button", "Set")
        assert self.browser.all("p.notice.bad")
        assert "as fast as <you> can" in self.browser.notice

    def is_told_once(self) -> None:
        """The notice is gone when the page is loaded again."""
        self.changes_a_limit()
        self.browser.leads_on(self.browser.driver.refresh)
        assert self.browser.notice == ""


ACTIONS = (
    *("pauses_and_resumes", "cancels", "retries", "changes_a_limit", "responds", "prunes"),
    *("is_told_what_cannot_be", "is_told_once"),
)
