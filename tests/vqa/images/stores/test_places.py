"""The image store behaves alike wherever the bytes are."""

import threading

import pytest
from redis import Redis

from vqa import ImageMissing
from vqa.images.store import ImageStore, reference

ONE, TWO = b"one image" * 1000, b"another image" * 1000


@pytest.fixture
def store(redis: Redis, url: str | None) -> ImageStore:
    return ImageStore.open(redis, url, 3600)


def test_images_are_read_in_order_as_they_were_put(store: ImageStore) -> None:
    names = store.put_many([ONE, TWO], timeout_s=60)
    assert store.get_many([names[TWO], names[ONE], names[TWO]]) == [TWO, ONE, TWO]
    assert store.get(names[ONE]) == ONE


def test_an_image_that_was_never_put_is_missing(store: ImageStore) -> None:
    store.put(ONE, 60)
    with pytest.raises(ImageMissing, match="submit the job again"):
        store.get_many([reference(ONE), reference(TWO)])


def test_sizes_tell_which_images_are_there(store: ImageStore) -> None:
    name = store.put(ONE, 60)
    assert store.sizes([name, reference(TWO)]) == {name: len(ONE), reference(TWO): None}
    assert store.write({reference(TWO): TWO}, {name: 60, reference(TWO): 60}) == {name: len(ONE)}
    assert store.write({}, {reference(b"?"): 60}) == {reference(b"?"): None}


def test_many_writers_may_put_the_same_image_at_once(store: ImageStore) -> None:
    threads = [threading.Thread(target=store.put_many, args=([ONE, TWO], 60)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get_many([reference(ONE), reference(TWO)]) == [ONE, TWO]
