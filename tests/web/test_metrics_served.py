"""`/metrics` of the console: the page that `durable-bus metrics` prints."""

import eventful
from command_line import durable_bus
from consoles import Console
from metrics_pages import promtool_says, read


def test_it_is_the_page_of_the_command_and_promtool_accepts_it(
    story: eventful.Story, console: Console
) -> None:
    response = console.browser.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    printed = durable_bus("metrics", "--journal", story.journal, cwd=story.journal.parent)
    served, told = read(response.text), read(printed.out)
    assert served.keys() == told.keys()
    # Of what waits, each page says the age anew.
    same = [key for key in told if key[0] != "durable_bus_oldest_waiting_seconds"]
    assert {key: served[key] for key in same} == {key: told[key] for key in same}
    assert promtool_says(response.text) == "0 "
