import pytest
from redis import Redis

from vqa import ImageMissing
from vqa.images.store import MARGIN_S, ImageStore, image_key, reference


def test_ten_jobs_about_one_image_keep_it_once(redis: Redis) -> None:
    store = ImageStore(redis)
    names = {store.put(b"the same bytes", timeout_s=60) for _ in range(10)}
    assert len(names) == 1
    assert redis.dbsize() == 1
    assert store.get(names.pop()) == b"the same bytes"


def test_a_image_is_kept_for_the_longest_of_its_jobs(redis: Redis) -> None:
    store = ImageStore(redis)
    for timeout_s in (60, 6000, 60):
        name = store.put(b"bytes", timeout_s)
    assert 6000 + MARGIN_S - 5 < redis.ttl(image_key(name)) <= 6000 + MARGIN_S


def test_a_image_that_is_gone_is_a_named_error(redis: Redis) -> None:
    with pytest.raises(ImageMissing):
        ImageStore(redis).get(reference(b"never stored"))
