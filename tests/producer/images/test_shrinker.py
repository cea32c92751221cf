"""How large images are seen, by what the workers that are up say of themselves."""

from collections.abc import Mapping
from typing import Any

import pytest

from producer.images.shrink import Shrink
from producer.images.shrinkable import details_of_job, details_of_messages
from producer.images.shrinker import Shrinker
from vqa import Job, QueueUnavailable
from vqa.images.fit import Fit
from vqa.images.limits import FileLimits
from vqa.jobs.message import Detail
from vqa.ledger.records import WorkerInfo
from workers.engine.detail import ImageTokens

LIMITS = FileLimits(20 * 2**20, 50_000_000)
MODEL = Fit(28, 3136, 12_845_056)
QWEN3 = {"factor": 32, "min_pixels": 65_536, "max_pixels": 1024 * 1024, "high": 4096 * 1024, "resample": 3}


def worker(about: Mapping[str, Any]) -> WorkerInfo:
    return WorkerInfo("a@host", 0, about)


def shrinker(*abouts: Mapping[str, Any], tokens: int | None = None) -> Shrinker:
    return Shrinker(Shrink(tokens), LIMITS, lambda: [worker(about) for about in abouts])


@pytest.mark.parametrize("detail", ["low", "auto", "high"])
@pytest.mark.parametrize("most", [None, 4, 200, 1000, 4096], ids=["worker's", "4", "200", "1000", "4096"])
def test_an_image_is_as_large_as_its_worker_shows_it(detail: Detail, most: int | None) -> None:
    tokens = ImageTokens(256, 1280, 4096)
    fit = MODEL.capped(tokens.high * MODEL.factor**2)
    shown = MODEL.capped(tokens.most(detail, most) * MODEL.factor**2)
    found = shrinker({"fit": tokens.about(fit)}).fit(detail, most)
    assert found is not None
    for size in ((4000, 3000), (1000, 3001), (60, 50), (28, 5600)):
        assert found.size(*size) == shown.size(*size)


def test_workers_of_one_kind_agree() -> None:
    assert shrinker({"fit": QWEN3}, {"fit": QWEN3}).fit("auto", None) == Fit(32, 65_536, 1024 * 1024)


@pytest.mark.parametrize(
    ("abouts", "why"),
    [
        ([], "no worker is up"),
        ([{"fit": QWEN3}, {"fit": QWEN3 | {"factor": 28}}], "in different sizes"),
        ([{"fit": QWEN3}, {"slots": 4}], "does not say"),
        ([{"fit": {"factor": 0}}], "does not say"),
        ([{"fit": "none"}], "does not say"),
    ],
    ids=["none", "other", "silent", "damaged", "text"],
)
def test_images_whose_size_is_not_known_are_sent_whole_with_one_warning(
    abouts: list[dict[str, Any]], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = shrinker(*abouts)
    assert [asked.fit("auto", None) for _ in range(3)] == [None] * 3
    assert len(caplog.messages) == 1
    assert why in caplog.messages[0]


@pytest.mark.parametrize("abouts", [[], [{"slots": 4}], [{"fit": QWEN3}]], ids=["none", "silent", "known"])
def test_a_number_of_tokens_stands_for_auto(abouts: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    asked = shrinker(*abouts, tokens=2000)
    sizes = {detail: asked.fit(detail, None) for detail in ("low", "auto", "high")}
    tokens = {detail: fit and fit.max_pixels // fit.factor**2 for detail, fit in sizes.items()}
    assert tokens == {"low": 256, "auto": 2000, "high": 4096}
    assert not caplog.messages


def test_while_redis_is_away_the_last_answer_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[Any] = [[worker({"fit": QWEN3})], QueueUnavailable("away"), []]

    def workers() -> list[WorkerInfo]:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return list(reply)

    monkeypatch.setattr("producer.images.shrinker._FRESH_S", 0.0)
    asked = Shrinker(Shrink(), LIMITS, workers)
    assert [asked.fit("auto", None) for _ in range(3)] == [Fit(32, 65_536, 1024 * 1024)] * 3


@pytest.mark.parametrize(("tokens", "quality"), [(3, None), (16_385, None), (None, 0), (None, 101)])
def test_numbers_out_of_range_are_refused(tokens: int | None, quality: int | None) -> None:
    with pytest.raises(ValueError, match="must be from"):
        Shrink(tokens, quality)


def _part(image: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image", "image": image, **fields}


A, B, C, D, E, F = (f"sha256:{digit * 64}" for digit in "abcdef")

PARTS = [
    _part(A),
    _part(B, detail="high"),
    _part(C, pages="2-3"),
    _part(D),
    _part(D, detail="low"),
    _part(E),
    {"type": "video", "frames": [E, F]},
    _part(A, detail="auto"),
    {"type": "text", "text": "What is it?"},
]


def test_images_in_one_detail_and_not_of_videos_or_pages_may_shrink() -> None:
    messages = [{"role": "user", "content": PARTS}]
    assert details_of_messages(messages) == {A: "auto", B: "high"}
    assert details_of_job(Job(messages=messages)) == {A: "auto", B: "high"}
