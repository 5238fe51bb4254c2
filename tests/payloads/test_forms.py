"""Every form of a payload, end to end: client, journal, worker, handler and back."""

from collections.abc import Iterator

import pytest
from apps import forms
from lxml import etree
from support import Facts

from durable_bus import Result, Text, Xml
from durable_bus.client.client import Client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with forms.bus.running(journal=tmp_path_factory.mktemp("forms") / "journal.db", workers=1) as client:
        yield client


def run(client: Client, target: str, *items: object) -> list[Result]:
    buffer = client.start(target, items)
    buffer.wait(60)
    return list(buffer.results())


def answers(client: Client, target: str, *items: object) -> list[tuple[str, bool]]:
    """(payload, is_xml) of the results, which all are successes."""
    results = run(client, target, *items)
    assert all(result.success and result.error is None for result in results), results
    return [(result.payload, result.is_xml) for result in results]


def element(xml: str) -> etree._Element:
    return etree.fromstring(xml)


def as_sent(client: Client, *items: object) -> list[tuple[str, int]]:
    """(payload, is_xml) of the items as they are in the journal."""
    buffer = client.start("nothing", items)
    return [
        (payload, is_xml)
        for payload, is_xml in Facts(client.journal).rows(
            "SELECT payload, is_xml FROM items WHERE buffer_id = ? ORDER BY item_index", buffer.buffer_id
        )
    ]


# How items are taken


@pytest.mark.slow
def test_plain_str_is_xml_if_its_first_character_after_spaces_is_a_lesser_than(client: Client) -> None:
    assert as_sent(client, "<a/>", " \t\r\n<a/>", "a<b", "", " ", "<3") == [
        ("<a/>", 1),
        (" \t\r\n<a/>", 1),
        ("a<b", 0),
        ("", 0),
        (" ", 0),
        ("<3", 1),
    ]


def test_text_and_xml_say_outright_what_they_are(client: Client) -> None:
    assert as_sent(client, Text("<3"), Xml("<a/>"), Text("<a/>"), Xml("no xml")) == [
        ("<3", 0),
        ("<a/>", 1),
        ("<a/>", 0),
        ("no xml", 1),
    ]


def test_elements_and_dataclasses_are_xml_and_an_element_leaves_its_tail(client: Client) -> None:
    parent = element("<p><a>1</a>tail</p>")
    assert as_sent(client, parent[0], forms.Point(1, 2), forms.Note("a & b")) == [
        ("<a>1</a>", 1),
        ("<Point><x>1</x><y>2</y></Point>", 1),
        ("<Note><text>a &amp; b</text></Note>", 1),
    ]


def test_nothing_of_an_item_is_stripped_or_dropped(client: Client) -> None:
    texts = ["  a  ", "", "a\nb\r\n", "\u2028\x85\xa0", "é😀𝔘", "\\u0041 \\ \" '", "\x0b\x01"]
    assert as_sent(client, *map(Text, texts)) == [(text, 0) for text in texts]
    assert [payload for payload, _ in answers(client, "text", *map(Text, texts[:-1]))] == texts[:-1]


# How they arrive


def test_a_handler_without_annotation_gets_the_item_as_it_is(client: Client) -> None:
    assert answers(client, "default", "<a>x</a>", "words", Text("<3"), {"b": [1]}, None) == [
        ("_Element", False),
        ("str", False),
        ("str", False),
        ("dict", False),
        ("NoneType", False),
    ]


def test_text_arrives_inside_an_item_where_an_element_is_expected(client: Client) -> None:
    assert answers(client, "element", "words", element("<a b='1'/>"), "<?xml version='1.0'?><a/>") == [
        ("<item>words</item>", True),
        ('<a b="1"/>', True),
        ("<a/>", True),
    ]


def test_a_handler_of_str_gets_the_text_or_the_xml_without_its_declaration(client: Client) -> None:
    assert answers(client, "text", "words", "<a>x</a>", '<?xml version="1.0"?>\n<a/>', Text("<3")) == [
        ("words", False),
        ("<a>x</a>", False),
        ("<a/>", False),
        ("<3", False),
    ]


def test_a_handler_of_a_dataclass_gets_one(client: Client) -> None:
    items = [
        forms.Point(1, 2),
        "<Point><x>1</x></Point>",
        '<p:point xmlns:p="urn:p"><p:X>1</p:X><p:y>5</p:y></p:point>',
    ]
    assert answers(client, "point", *items) == [
        ("<Point><x>2</x><y>3</y></Point>", True),
        ("<Point><x>2</x><y>1</y></Point>", True),
        ("<Point><x>2</x><y>6</y></Point>", True),
    ]


def test_text_is_a_dataclass_only_if_that_has_one_field_of_str(client: Client) -> None:
    assert answers(client, "note", "words", Text("<3")) == [
        ("<Note><text>WORDS</text></Note>", True),
        ("<Note><text>&lt;3</text></Note>", True),
    ]
    (refused,) = run(client, "point", "words")
    assert not refused.success
    assert refused.payload.startswith("<SystemError><code>malformed</code>")


def test_xml_that_does_not_fit_the_dataclass_is_malformed(client: Client) -> None:
    items = [
        "<Point/>",
        "<Point><x>one</x></Point>",
        "<Other><x>1</x></Other>",
        "<Point><x>1</x><z>1</z></Point>",
        "<Point>",
    ]
    results = run(client, "point", *items, forms.Point(1))
    assert [result.success for result in results] == [False] * 5 + [True]
    assert all(result.error and result.error.startswith("malformed: ") for result in results[:-1])


def test_the_metadata_comes_where_its_annotation_says_under_any_name(client: Client) -> None:
    assert answers(client, "only-metadata-by-annotation", "a", "b") == [
        ("only-metadata-by-annotation 0", False),
        ("only-metadata-by-annotation 1", False),
    ]


def test_a_sync_wrapper_that_runs_an_async_function_may_have_its_own_event_loop(client: Client) -> None:
    assert answers(client, "sync-around-async", "a") == [("a", False)]


# How answers leave


def test_none_is_the_empty_text_and_a_success(client: Client) -> None:
    assert answers(client, "nothing", "a") == [("", False)]


def test_an_answer_of_plain_str_is_guessed_like_an_item(client: Client) -> None:
    assert answers(client, "guess", "words", "<a>x</a>", "  <a/>") == [
        ("words", False),
        ("<a>x</a>", True),
        ("  <a/>", True),
    ]
    kept = ["<3", "<think>hm</think> 4", "<html><br>", "\x1b[31mred\x1b[0m", "<a>\x01</a>"]
    assert answers(client, "guess", *map(Text, kept)) == [(text, False) for text in kept]


def test_text_and_xml_answers_say_outright_what_they_are(client: Client) -> None:
    assert answers(client, "text", Text("<a/>")) == [("<a/>", False)]
    assert answers(client, "xml", "<a/>") == [("<a/>", True)]
    (broken,) = run(client, "xml", "words")
    assert (broken.success, broken.is_xml) == (False, True)


def test_an_element_answer_is_character_for_character_what_lxml_says_without_tail(client: Client) -> None:
    assert answers(client, "inner", "<a><b x='1'>  é \n</b>tail</a>") == [('<b x="1">  é \n</b>', True)]


def test_huh_and_system_error_are_failed_answers_held_as_they_were_given(client: Client) -> None:
    (huh,) = run(client, "huh", "this")
    assert (huh.success, huh.payload) == (False, "<Huh><error>what is this?</error></Huh>")
    (error,) = run(client, "system-error", "that")
    assert not error.success
    assert error.payload == (
        "<SystemError><code>no-such-thing</code><message>that</message>"
        "<retry_allowed>false</retry_allowed></SystemError>"
    )


def test_results_are_one_document_an_item_an_index_text_escaped_and_xml_as_answered(
    client: Client,
) -> None:
    buffer = client.start("guess", ["a < b & c", "<a>&lt;</a>", Text("<3"), "]]>"])
    complete = buffer.wait(60)
    assert (complete.total, complete.successful) == (4, 4)
    document = etree.fromstring(complete.results)
    assert document.tag == "results"
    assert [item.get("index") for item in document] == ["0", "1", "2", "3"]
    assert [item.get("success") for item in document] == ["true", "true", "true", "true"]
    assert document[0].text == "a < b & c"
    assert '<item index="1" success="true"><a>&lt;</a></item>' in complete.results
    assert document[2].text == "<3"
    assert document[3].text == "]]>"


def test_a_buffer_of_mixed_forms_keeps_each_items_own(client: Client) -> None:
    items = [Text("<3") if index % 7 == 0 else f"<a>{index}</a>" for index in range(500)]
    results = run(client, "element", *items)
    assert all(result.success for result in results)
    assert [result.payload for result in results] == [
        "<item>&lt;3</item>" if index % 7 == 0 else f"<a>{index}</a>" for index in range(500)
    ]


@pytest.mark.slow
def test_payloads_larger_than_a_pipe_go_in_and_out_unchanged(client: Client) -> None:
    big = [str(n) * 300_000 for n in range(10)]
    assert [payload for payload, _ in answers(client, "text", *big)] == big
    xml = "<a>" + "x" * (8 * 1024 * 1024 - 7) + "</a>"
    assert answers(client, "element", xml) == [(xml, True)]
