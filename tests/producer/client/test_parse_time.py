"""Times as people write them."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.client.dead_letters import parse_time

numbers = st.integers(0, 9999)


@given(weeks=numbers, days=numbers, hours=numbers, minutes=numbers, seconds=numbers)
def test_so_long_ago_is_a_sum_of_its_units(weeks: int, days: int, hours: int, minutes: int, seconds: int) -> None:
    parts = {"w": weeks, "d": days, "h": hours, "m": minutes, "s": seconds}
    text = "".join(f"{number}{unit}" for unit, number in parts.items() if number) or "0s"
    expected = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert parse_time(text) == parse_time(f" {text.upper()} ") == expected


@given(st.datetimes(), st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
def test_an_iso_time_is_utc_unless_it_names_its_offset(moment: datetime, offset: timedelta) -> None:
    assert parse_time(moment.isoformat()) == moment.replace(tzinfo=UTC)
    whole_minutes = timedelta(minutes=offset // timedelta(minutes=1))
    sign = "-" if whole_minutes < timedelta() else "+"
    hours, minutes = divmod(abs(whole_minutes) // timedelta(minutes=1), 60)
    there = parse_time(f"{moment.isoformat()}{sign}{hours:02}:{minutes:02}")
    assert isinstance(there, datetime)
    assert (there.replace(tzinfo=None), there.utcoffset()) == (moment, whole_minutes)


@given(st.text() | st.from_regex(r"[0-9wdhms:TZ+.-]*"))
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    with suppress(ValueError):
        moment = parse_time(text)
        assert isinstance(moment, timedelta) or moment.tzinfo is not None


@pytest.mark.parametrize("text", ["", " ", "2", "h", "2h1d", "-2h", "2.5h", "yesterday", "999999999w", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="2h, 1d12h"):
        parse_time(text)
