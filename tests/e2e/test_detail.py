"""How large images and videos are seen: as their job asks, as their worker allows, and smaller where it must be."""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from producer import Client
from tests.e2e import videos
from tests.e2e.site import Site, open_site
from tests.worker_process import TINY
from tests.workers.media.video_files import animation, video_file
from vqa import Answer, InvalidJob, Job, PromptTooLong, VQAError
from vqa.images.fit import Fit

WAIT_S = 100.0
MODEL = {"VQA_MODEL": str(TINY), "VQA_SLOTS": "4"}
LIMITS = {"VQA_MAX_IMAGE_TOKENS": "36", "VQA_HIGH_IMAGE_TOKENS": "50", "VQA_SLOT_TOKENS": "256"}

#: of the bundled model, for images of up to 64 tokens
FIT = Fit(32, min_pixels=4 * 1024, max_pixels=64 * 1024)

#: with a video of 24 tokens, a prompt of five tokens too many
TOO_LONG = "why? " * 92

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", params=["continuous", "pipeline"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("detail"), VQA_ENGINE=request.param, **MODEL, **LIMITS) as site:
        yield site


def encoded(image: Image.Image, format: str = "PNG", **how: Any) -> bytes:
    data = BytesIO()
    image.save(data, format, **how)
    return data.getvalue()


def about(images: list[bytes], question: str = "what colour is it?", detail: str = "auto", **fields: Any) -> Job:
    parts = [{"type": "image", "image": each, "detail": detail} for each in images]
    content = [*parts, {"type": "text", "text": question}]
    return Job.from_json({"messages": [{"role": "user", "content": content}], "max_new_tokens": 16, **fields})


def outcome_of(client: Client, job: Job) -> Answer | VQAError:
    return dict(client.answers([client.submit(job)], timeout_s=WAIT_S))[job.id]


def answer_to(client: Client, job: Job) -> Answer:
    outcome = outcome_of(client, job)
    assert isinstance(outcome, Answer), outcome
    return outcome


def photo(width: int, height: int) -> bytes:
    return encoded(Image.effect_noise((width, height), 90).convert("RGB"))


def test_images_are_seen_as_their_job_asks_and_smaller_where_a_slot_is_too_small(site: Site) -> None:
    client = site.client
    (info,) = client.workers()
    assert info.about["fit"] == {
        **{"factor": 32, "min_pixels": 4096, "max_pixels": 36 * 1024, "high": 50 * 1024, "resample": 3}
    }
    check_detail(client)
    check_reuse(client)
    check_shrinking(client)
    log = site.worker.log.read_text()
    assert "images are seen at up to 36 tokens (VQA_MAX_IMAGE_TOKENS), with detail low 36, high 50 " in log
    assert "is small for an image of 36 (detail auto)" in log
    assert "VQA_SLOT_TOKENS=548 is enough" in log


def check_detail(client: Client) -> None:
    for image in (photo(1000, 500), photo(2000, 20)):
        text: set[int] = set()
        for detail, bound, most in (("low", None, 36), ("auto", None, 36), ("high", None, 50), ("high", 9, 9)):
            answer = answer_to(client, about([image], detail=detail, max_image_tokens=bound))
            (seen,) = answer.images
            fit = FIT.capped(most * 1024)
            size = fit.size(seen.source_width, seen.source_height)
            assert (seen.width, seen.height) == size
            assert seen.tokens == fit.tokens(*size)
            text.add(answer.usage.prompt_tokens - seen.tokens)
        # all else in the prompt is the same
        assert len(text) == 1
    refused = outcome_of(client, about([photo(64, 64)], max_image_tokens=51))
    assert isinstance(refused, InvalidJob)
    assert "max_image_tokens=51 is more than this worker's VQA_HIGH_IMAGE_TOKENS=50" in str(refused)


def check_reuse(client: Client) -> None:
    job = about([photo(300, 300)], reuse=True, detail="high")
    computed, reused = (answer_to(client, job.model_copy(update={"id": id})) for id in ("a", "b"))
    assert reused.reused
    assert reused.images == computed.images
    assert reused.images[0].tokens == 49
    assert not answer_to(client, about([photo(300, 300)], reuse=True)).reused


def check_shrinking(client: Client) -> None:
    photos = [photo(600, 400 + 20 * number) for number in range(8)]
    refused = outcome_of(client, about(photos, detail="high"))
    assert isinstance(refused, PromptTooLong)
    said = re.fullmatch(
        r"(\d+) prompt tokens and max_new_tokens=16 exceed the 256 tokens of a slot \(VQA_SLOT_TOKENS\) by (\d+); "
        r"VQA_SLOT_TOKENS=(\d+) would hold them; 8 images take (\d+) of them: set shrink_images or "
        r"max_image_tokens=(\d+) or a lower detail",
        str(refused),
    )
    assert said, refused
    prompt, excess, slot, taken, bound = map(int, said.groups())
    assert slot == prompt + 16 == 256 + excess
    bounded = answer_to(client, about(photos, detail="high", max_image_tokens=bound))
    # nothing but the images is smaller
    assert bounded.usage.prompt_tokens == prompt - taken + sum(image.tokens or 0 for image in bounded.images)
    assert isinstance(outcome_of(client, about(photos, detail="high", max_image_tokens=bound + 6)), PromptTooLong)

    shrunk = answer_to(client, about(photos, detail="high", shrink_images=True))
    # sides are multiples of 32 pixels, so that a little of the slot is left
    assert 256 - 16 - 24 <= shrunk.usage.prompt_tokens <= 256 - 16
    assert is_even(shrunk, FIT.capped(50 * 1024))
    check_pages(client)
    # what fits is left as it is
    fits = about(photos[:2])
    assert answer_to(client, fits.model_copy(update={"id": "c", "shrink_images": True})).images == (
        answer_to(client, fits).images
    )
    hopeless = outcome_of(client, about([photo(64, 64)] * 64, shrink_images=True))
    assert isinstance(hopeless, PromptTooLong)
    assert "64 images take 256 of them, and they cannot be made small enough: send fewer of them" in str(hopeless)


def is_even(answer: Answer, fit: Fit) -> bool:
    """Whether all images have the sizes of the whole images under limits that are one factor smaller than they were."""

    def at(scale: float) -> list[tuple[int, int]]:
        sources = [(image.source_width, image.source_height) for image in answer.images]
        areas = [width * height for width, height in (fit.size(*source) for source in sources)]
        return [fit.capped(int(area * scale)).size(*source) for area, source in zip(areas, sources, strict=True)]

    seen = [(image.width, image.height) for image in answer.images]
    return any(at(scale / 1000) == seen for scale in range(100, 1000))


def check_pages(client: Client) -> None:
    pages = [Image.effect_noise((500, 500), 90) for _ in range(8)]
    file = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    paged = answer_to(client, about([file], detail="high", shrink_images=True))
    assert [(image.page, image.pages) for image in paged.images] == [(page, 8) for page in range(1, 9)]
    assert {image.tokens for image in paged.images} == {25}


def test_frames_animations_and_video_files_are_answered(site: Site) -> None:
    # the model was not trained on them: only the form of its answers is checked
    frames = [videos.png(number) for number in range(5)]
    times_s = [0.0, 0.5, 1.0, 2.5, 4.0]
    # the same video, in files of several kinds
    jobs = [
        videos.about({"frames": frames, "times_s": times_s}, "frames"),
        videos.about({"frames": frames, "fps": 4}, "fps"),
        videos.about({"video": animation("GIF", [100] * 30)}, "gif"),
        videos.about({"video": animation("WEBP", [100] * 30), "max_frames": 3}, "webp"),
        videos.about({"video": video_file(30)}, "mp4"),
        videos.about({"frames": frames, "detail": "low"}, "small", max_image_tokens=4),
        # five tokens too many for a slot
        videos.about({"frames": frames}, "shrunk", TOO_LONG, shrink_images=True),
    ]

    found = videos.outcomes(site.client, *jobs, videos.about({"frames": frames}, "too-long", TOO_LONG))

    too_long = found.pop("too-long")
    assert isinstance(too_long, PromptTooLong)
    assert "1 video takes 24 of them: send fewer frames, or set max_image_tokens" in str(too_long)

    answers = {id: each for id, each in found.items() if isinstance(each, Answer)}
    assert answers.keys() == {job.id for job in jobs}, found
    seen = {id: answer.videos[0] for id, answer in answers.items()}
    assert {id: each.frames for id, each in seen.items()} == {
        "frames": 5,
        "fps": 5,
        "gif": 6,
        "webp": 3,
        "mp4": 6,
        "small": 5,
        "shrunk": 5,
    }
    assert {(each.source_width, each.source_height) for each in seen.values()} == {(200, 120), (96, 64)}
    for id, each in seen.items():
        # two frames become one
        assert each.tokens == -(-each.frames // 2) * each.width * each.height // 32**2
        assert answers[id].images == ()
        assert answers[id].usage.prompt_tokens > each.tokens
    assert seen["frames"].tokens == 24
    assert seen["small"].tokens <= 3 * 4
    assert seen["small"].tokens < seen["shrunk"].tokens <= 19
