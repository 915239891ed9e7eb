import pytest

from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.timestamps import format_rfc3339, parse_rfc3339


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2030-01-01T00:00:00Z", 1_893_456_000),
        ("2030-01-01t00:00:00z", 1_893_456_000),
        ("2030-01-01T00:00:00+00:00", 1_893_456_000),
        ("2030-01-01T00:00:00-00:00", 1_893_456_000),
        ("2030-01-01T02:30:00+02:30", 1_893_456_000),
        ("2029-12-31T19:00:00-05:00", 1_893_456_000),
        ("2000-02-29T12:00:00Z", 951_825_600),
        ("2016-12-31T23:59:60Z", 1_483_228_800),
        ("1969-12-31T23:59:59Z", -1),
    ],
)
def test_every_spelling_names_one_second(text, unix_s):
    assert parse_rfc3339(text) == unix_s


def test_a_fraction_never_makes_an_expiry_later():
    assert parse_rfc3339("2030-01-01T00:00:00.999999Z") == 1_893_456_000


@pytest.mark.parametrize(
    "text",
    [
        "", "2030-01-01", "2030-01-01T00:00:00", "2030-01-01 00:00:00Z", "2030-01-01T00:00Z",
        "2030-02-30T00:00:00Z", "2030-13-01T00:00:00Z", "0000-01-01T00:00:00Z",
        "2030-01-01T24:00:00Z", "2030-01-01T00:60:00Z", "2030-01-01T00:00:61Z",
        "2030-01-01T00:00:00+24:00", "1893456000", "2030-01-01T00:00:00+0000",
        "2030-01-01T00:00:00.Z", "2030-01-01T00:00:00Z ",
        "Jan 29 2026 12:00", "２０３０-01-01T00:00:00Z",
        "2030-01-01T00:00:00." + "0" * 100 + "Z", "2030-01-01T00:00:00Z\n",
    ],
)  # fmt: skip
def test_a_time_without_an_offset_or_off_the_calendar_is_refused(text):
    with pytest.raises(ParseError):
        parse_rfc3339(text)


def test_times_are_written_in_seconds_and_utc():
    assert format_rfc3339(1_893_456_000) == "2030-01-01T00:00:00Z"
    assert format_rfc3339(-1) == "1969-12-31T23:59:59Z"


@pytest.mark.parametrize("unix_s", [2**63, -(2**63), 253_402_300_800, 10**30])
def test_a_time_off_the_calendar_is_not_written(unix_s):
    with pytest.raises(ValueError, match="years"):
        format_rfc3339(unix_s)
