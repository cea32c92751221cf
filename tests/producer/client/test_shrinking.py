"""Jobs whose images are shrunk before they are submitted: what they name, and what is sent with them."""

import asyncio
import io

import pytest
from PIL import Image
from redis import Redis

from producer import AsyncClient, Shrink
from producer.client.shrinking import shrink_jobs
from producer.client.submission import PreparedJob
from producer.images.shrinker import Shrinker
from vqa import Job
from vqa.images.limits import FileLimits
from vqa.images.store import ImageStore, reference
from vqa.settings import QueueSettings

FILES = FileLimits(20 * 2**20, 50_000_000)


def image(seed: int, width: int = 640, height: int = 480) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 20 + seed).save(file, "BMP")
    return file.getvalue()


@pytest.fixture
def shrinker() -> Shrinker:
    return Shrinker(Shrink(tokens=64), FILES, list)


def test_equal_images_are_shrunk_once_and_others_are_kept(shrinker: Shrinker) -> None:
    large, small = image(1), image(2, 32, 32)
    jobs = [PreparedJob(Job.about(data, "What is it?", id=f"q{i}")) for i, data in enumerate((large, small, large))]
    first, second, third = shrink_jobs(jobs, shrinker)
    [name] = first.images
    assert [*first.job.contents()] == [*third.job.contents()] == [name]
    assert len(first.images[name]) < len(large) / 3
    assert reference(first.images[name]) == name
    assert second == jobs[1]
    assert shrinker.saved.images == 1
    assert shrinker.saved.bytes == len(large) - len(first.images[name])


def test_an_image_that_is_named_by_reference_is_sent_shrunk(shrinker: Shrinker) -> None:
    large = image(1)
    job = Job.about(large, "What is it?").with_images({large: reference(large)})
    [prepared] = shrink_jobs([PreparedJob(job, {reference(large): large}, stream=True)], shrinker)
    [(name, data)] = prepared.images.items()
    assert [*prepared.job.contents()] == [name]
    assert reference(data) == name != reference(large)
    assert prepared.stream


def test_the_asyncio_client_stores_shrunk_images(redis: Redis, queue_settings: QueueSettings) -> None:
    async def submit() -> list[str]:
        async with AsyncClient(queue_settings, shrink=Shrink(tokens=64, quality=90)) as client:
            first = await client.submit(Job.about(image(1), "What is it?"))
            return [first, *await client.submit_many(Job.about(image(seed), "And this?") for seed in (2, 3))]

    assert len(asyncio.run(submit())) == 3
    names = [key.decode().removeprefix("vqa:image:") for key in redis.keys("vqa:image:*")]
    images = [Image.open(io.BytesIO(data)) for data in ImageStore(redis).get_many(names)]
    assert [(each.format, each.width * each.height <= 64 * 32**2) for each in images] == [("JPEG", True)] * 3
