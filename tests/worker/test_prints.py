"""What handlers print is, in a JSON log, a line that says whose it is; else it is left alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from services import Service


def printed(service: Service) -> dict[str, dict[str, Any]]:
    """By text. What is no JSON did not go through Python's streams."""
    lines = []
    for line in service.log().splitlines():
        if line.startswith("{"):
            lines.append(json.loads(line))
    return {line["text"]: line for line in lines if line["event"] == "printed"}


@pytest.mark.slow
def test_a_printed_line_says_which_worker_which_buffer_and_which_item(journal: Path) -> None:
    with Service(journal, "apps.printing:bus", workers=2, log_format="json") as service:
        with service.client() as client:
            buffer = client.start("say", [f"i{number}" for number in range(20)], buffer_id="b")
            buffer.wait(60)
            pids = [int(result.payload) for result in buffer.results()]
        found = printed(service)
        for index, pid in enumerate(pids):
            for text, stream in {
                "to stdout": "stdout",
                "two": "stderr",
                "by logging": "stderr",
                "in parts": "stdout",
            }.items():
                line = found[f"i{index}: {text}"]
                whose = {key: line[key] for key in ("level", "pid", "buffer", "item", "stream")}
                assert whose == {"level": "info", "pid": pid, "buffer": "b", "item": index, "stream": stream}
            thread = found[f"i{index}: by a thread"]
            assert (thread["pid"], "item" in thread) == (pid, False)
            assert f"i{index}: by the descriptor\n" in service.log()
        assert found["at import"].keys() == {"at", "level", "event", "pid", "stream", "text"}
        assert {line["text"] for line in found.values()} >= {"lines"}


@pytest.mark.slow
def test_async_items_do_not_take_each_others_lines(journal: Path) -> None:
    with Service(journal, "apps.printing:async_bus", workers=1, log_format="json") as service:
        with service.client() as client:
            buffers = {
                target: client.start(target, [f"{target}{number}" for number in range(20)], buffer_id=target)
                for target in ("say", "sync")
            }
            for buffer in buffers.values():
                buffer.wait(60)
        found = printed(service)
        for index in range(20):
            for text in ("in its task", "in another task", "in a thread"):
                line = found[f"say{index}: {text}"]
                assert (line["buffer"], line["item"]) == ("say", index)
            line = found[f"sync{index}: between them"]
            assert (line["buffer"], line["item"]) == ("sync", index)


@pytest.mark.slow
def test_a_message_is_named_by_its_id_and_a_forked_child_prints_with_its_own_pid(journal: Path) -> None:
    with Service(journal, "apps.printing:bus", workers=1, log_format="json") as service:
        with service.client("reader") as client:
            client.send("say", "m")
            assert client.receive(60) is not None
            buffer = client.start("fork", ["f"], buffer_id="b")
            buffer.wait(60)
            (result,) = buffer.results()
        found = printed(service)
        (message_id,) = service.facts.rows("SELECT message_id FROM messages WHERE to_id = 'say'")[0]
        assert found["m: to stdout"]["message"] == message_id
        assert "item" not in found["m: to stdout"]
        assert found["f: by a child"]["pid"] == int(result.payload)


@pytest.mark.slow
def test_in_a_text_log_prints_are_left_as_they_are(journal: Path) -> None:
    with Service(journal, "apps.printing:bus", workers=1) as service, service.client() as client:
        client.start("say", ["a"]).wait(60)
        service.until_logged("(?m)^a: by logging$")
        service.until_logged("(?m)a: by the descriptor$")  # maybe behind what had no line feed
