"""YAML is read strictly, and every value remembers its line."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.config import document
from mpp_gateway.config.document import MAX_BYTES, MAX_DEPTH, format_path, read_document
from mpp_gateway.errors import ConfigError


def read(text, **environ):
    return read_document(text, "c.yaml", environ)


def refused(text, **environ):
    with pytest.raises(ConfigError) as caught:
        read(text, **environ)
    return str(caught.value)


def noted(text, **environ):
    (mistake,) = read(text, **environ).mistakes
    return str(mistake)


@pytest.mark.parametrize(
    ("yaml", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0.5", 0.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("text", "text"),
        ('"1"', "1"),
        ("'true'", "true"),
        ('""', ""),
        ("[a, 1]", ("a", 1)),
        ("{b: c}", {"b": "c"}),
    ],
)
def test_values_have_the_types_of_yaml_1_2(yaml, value):
    assert value == read(f"a: {yaml}").data["a"]


@pytest.mark.parametrize(
    "text", ["no", "on", "yes", "0x20c0", "0o17", "1_000", "12:30", "2023-06-01", "007", "="]
)
def test_what_only_yaml_1_1_takes_for_something_else_is_a_text(text):
    assert text == read(f"a: {text}").data["a"]


def test_lines_are_those_of_the_keys():
    document = read("a:\n  b:\n  - x\n  - y\nc: 1\n")

    assert [document.line(p) for p in (("a", "b"), ("a", "b", 1), ("c",))] == [2, 4, 5]


def test_what_is_not_written_has_the_line_of_the_mapping_around_it():
    assert read("z: 1\na:\n  b: 1\n").line(("a", "missing", "deeper")) == 2


def test_a_duplicate_key_is_refused_with_both_lines():
    assert noted("a: 1\nb: 2\na: 3\n") == "c.yaml:3: a: this key stands twice; it is on line 1 too"


def test_a_duplicate_key_is_found_at_any_depth():
    assert 'c.yaml:3: a."b c"' in noted("a:\n  b c: 1\n  b c: 2\n")


def test_the_second_spelling_of_a_key_is_the_same_key():
    assert "stands twice" in noted("a: 1\n'a': 2\n")


def test_a_merge_key_is_refused():
    assert "merge keys (<<) are not read" in noted("a: &x {b: 1}\nc:\n  <<: *x\n")


def test_an_alias_of_a_whole_value_is_read():
    assert read("a: &x {b: 1}\nc: *x\n").data == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("value", ["!!binary aGk=", "!secret x", "!!python/name:os.system x"])
def test_a_tag_is_refused(value):
    assert "tags (!name) are not read here" in noted(f"a: {value}\n")


def test_a_key_that_is_no_text_is_refused():
    assert "a key is a text" in noted("? [a]\n: 1\n")


def test_numbers_as_keys_are_texts():
    assert read("404: x").data == {"404": "x"}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n", "just text\n"])
def test_a_file_that_is_no_mapping_is_refused(text):
    assert "c.yaml:1: " in refused(text)


def test_broken_yaml_is_refused_with_its_line_and_without_its_text():
    message = refused("a: 1\nb: [hidden-secret\n")

    assert message.startswith("c.yaml:")
    assert "not YAML" in message
    assert "hidden-secret" not in message


@pytest.mark.parametrize("text", ["a: \x07", "a: \ud800", "a: \x00"])
def test_characters_that_yaml_forbids_are_refused(text):
    assert "not YAML" in refused(text)


def test_a_second_document_is_refused():
    assert "not YAML" in refused("a: 1\n---\nb: 2\n")


def test_a_file_that_is_too_long_is_refused():
    assert "longer than" in refused("#" * MAX_BYTES + "\na: 1")


def test_a_file_that_is_nested_too_deep_is_refused_without_recursion():
    assert f"deeper than {MAX_DEPTH} levels" in refused("a: " + "[" * 100_000)


def test_a_bomb_of_aliases_is_refused():
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )

    assert "aliases that expand to too many values" in refused(bomb)


def test_an_alias_of_itself_is_refused():
    assert "aliases that expand" in refused("a: &a [*a]\n")


def test_an_environment_variable_is_read_anywhere_in_a_text():
    document = read("a: https://${HOST}:${PORT}/x\n", HOST="h.example", PORT="8")

    assert document.data["a"] == "https://h.example:8/x"
    assert {("a",)} == document.from_environment


@pytest.mark.parametrize("yaml", ["{b: ${X}}", '{b: "${X}"}', "{b: '${X}'}"])
def test_an_environment_variable_may_stand_unquoted_in_a_flow_mapping(yaml):
    assert read(f"a: {yaml}\n", X="v: }").data["a"] == {"b": "v: }"}


def test_a_value_from_the_environment_is_always_a_text():
    assert read("a: ${X}", X="true").data["a"] == "true"


def test_a_value_from_the_environment_is_not_read_again():
    assert read("a: ${X}", X="${Y} $${Z}", Y="no").data["a"] == "${Y} $${Z}"


def test_an_unset_variable_is_named():
    expected = "c.yaml:2: b: the environment variable NOPE is not set; export it before the start"

    assert expected == noted("a: 1\nb: x${NOPE}\n")


def test_a_doubled_dollar_stands_for_the_characters():
    assert read('a: "costs $${X} and $5"', X="no").data["a"] == "costs ${X} and $5"


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${a-b}", "${A:-x}", "${ A }"])
def test_a_reference_that_names_no_variable_is_refused(text):
    assert "is written ${NAME}" in noted(f"a: '{text}'", A="x")


def test_the_environment_is_not_read_in_keys():
    assert "in values only" in noted('"${X}": 1\n', X="x")


def test_paths_are_quoted_where_a_reader_would_stumble():
    path = ("services", "a", "routes", "GET /x.y", "offers", 0)

    assert format_path(path) == 'services.a.routes."GET /x.y".offers.0'


# --- the cure of what is no YAML ------------------------------------------------------------------


@pytest.mark.parametrize("loader", [yaml.SafeLoader, document._LOADER])
@pytest.mark.parametrize(
    ("text", "line", "cure"),
    [
        ("services:\n\tweather: 1\n", 2, "a tab stands where the line is indented; indent with sp"),
        ("a:\n  b:\n  \tc: 1\n", 3, "indent with spaces"),
        ("a:\n  b: 1\n\tc: 2\n", 3, "indent with spaces"),
        ("a: x\nservices\n  b: 1\n", 2, "a ':' and a space are missing after the key"),
        ("title x\nservices:\n  a: 1\n", 1, "a ':' and a space are missing after the key"),
        ("title:x\nservices:\n  a: 1\n", 1, "a space is missing after the ':'"),
        ("# c\ntitle:x\n\n# c\nservices:\n  a: 1\n", 2, "a space is missing after the ':'"),
        ('a:\n  "GET /x" {charge: 1}\n', 2, "a ':' and a space are missing after the key"),
        ("title: Weather: now\n", 1, "a value has ': ' in it; put quotes around the value"),
        ("title: @now\n", 1, "a value cannot start with '@'; put quotes"),
        ("title: `now`\n", 1, "a value cannot start with '`'; put quotes"),
        ("title: %now\n", 1, "a value cannot start with '%'; put quotes"),
        (
            "title: *now\n",
            1,
            "starts with '*' or '&' is an alias or an anchor; for a text put quot",
        ),
        ("title: * now\n", 1, "starts with '*' or '&'"),
        ("title: & now\n", 1, "starts with '*' or '&'"),
        ("title: {now} more\n", 1, "put quotes around the value"),
        ("title: {now\nb: {}\n", 2, "the '{' or '[' of line 1 is not closed before this"),
        ("a: [1\nb: 1\n", 2, "the '{' or '[' of line 1 is not closed before this"),
        ("a: {b: c: d}\n", 1, "put quotes around a value that starts so"),
        ('title: "now\nb: {}\n', 1, "a quote that opens on this line is never closed"),
        ("title: 'it's'\n", 1, "(a ' inside '…' is written '')"),
        ('title: "C:\\d"\n', 1, "use single quotes, or write '\\\\'"),
        ("a:\n  b:\n    c: 1\n   d: 2\n", 4, "keys of one mapping start in one column"),
        ("a:\n    b: 1\n  c: 2\n", 3, "keys of one mapping start in one column"),
        ("  a: 1\nb: 2\n", 2, "keys of one start in one column"),
        ("a:\n  b: 1\n    c: 2\n", 3, "indent with the lines beside it"),
        ("- a\nb: 1\n", 2, "a key among the items of a list"),
        ("a: - b\n", 1, "a list starts on a line of its own"),
        ("a: ? b\n", 1, "a value cannot start with '? '"),
        ("a: | b\n", 1, "the text starts on the next line"),
        ("a: {b: 1,, c: 2}\n", 1, "or a ',' too much"),
        ("a: 1\n---\nb: 2\n", 2, "take the '---' out"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line_and_its_cure(text, line, cure, loader, monkeypatch):
    monkeypatch.setattr(document, "_LOADER", loader)

    message = refused(text)

    assert message.startswith(f"c.yaml:{line}: not YAML: ")
    assert cure in message
    assert "\n" not in message


def test_a_forbidden_character_is_named_with_its_line():
    assert refused("a: 1\nb: \x07\n").startswith("c.yaml:2: not YAML: the character U+0007 ")


@given(st.text(alphabet="ab:{}[]'\"*&@!|>-?,# \t\n%`\\", max_size=40))
def test_every_mistake_has_a_line_of_the_file_and_one_line_of_words(text):
    try:
        read(text)
    except ConfigError as error:
        (mistake,) = error.mistakes
        assert 1 <= mistake.line <= text.count("\n") + 1
        assert "\n" not in str(mistake)
