"""A traceparent is taken as W3C writes it, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqa.tracing.traceparent import Traceparent

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(TRACE, TRACE, id="version-0"),
        pytest.param(TRACE.replace("00-4", "cc-4", 1) + "-later", TRACE, id="later-version"),
        pytest.param(TRACE[:-2] + "ff", TRACE[:-2] + "03", id="unknown-flags"),
        pytest.param(TRACE + "-more", None, id="version-0-with-more"),
        pytest.param(TRACE.replace("00-4", "cc-4", 1) + "-" + "x" * 200, None, id="long"),
        pytest.param(TRACE.replace("00-4", "ff-4", 1), None, id="version-ff"),
        pytest.param(TRACE.upper(), None, id="upper-case"),
        pytest.param(f"00-{'0' * 32}-00f067aa0ba902b7-01", None, id="trace-0"),
        pytest.param(f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", None, id="span-0"),
        pytest.param(TRACE + "\n", None, id="newline"),
        pytest.param(TRACE.replace("4bf9", "٤bf9"), None, id="other-digits"),
        pytest.param("", None, id="empty"),
        pytest.param(None, None, id="none"),
    ],
)
def test_what_is_valid_is_kept_and_nothing_else(given: str | None, kept: str | None) -> None:
    parsed = Traceparent.parse(given)
    assert (str(parsed) if parsed else None) == kept


@given(st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16), st.integers(0, 3))
def test_what_is_written_is_read_again(trace: str, span: str, flags: int) -> None:
    given = Traceparent(trace, span, flags)
    assert Traceparent.parse(str(given)) == (given if trace.strip("0") and span.strip("0") else None)


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    assert Traceparent.parse(text) is None or len(text) >= 55
