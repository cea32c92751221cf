"""The short form of `make chaos`: the same code, three minutes at most."""

import random

import pytest

from tests.chaos import __main__ as chaos


@pytest.mark.timeout(300)
def test_no_job_is_lost_or_answered_twice_under_fire(capsys: pytest.CaptureFixture[str]) -> None:
    status = chaos.main(["--short", "--seed", str(random.SystemRandom().randrange(10**6))])
    said = capsys.readouterr().out
    assert status == 0, said
    assert said.splitlines()[-1].startswith("chaos: seed ")
    with capsys.disabled():
        print("\n" + said.splitlines()[-1])
