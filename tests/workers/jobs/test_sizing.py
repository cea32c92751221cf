from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vqa.images.fit import Fit
from workers.jobs.sizing import Shown, at_scale, even_bound, even_scale

FIT = Fit(32, min_pixels=4 * 1024, max_pixels=4096 * 1024)

sizes = st.tuples(st.integers(8, 4000), st.integers(8, 4000)).filter(lambda size: max(size) <= 200 * min(size))
images = st.lists(
    st.builds(lambda size, tokens: Shown(*size, tokens * 1024), sizes, st.integers(1, 4096)), min_size=1, max_size=12
)


def tokens_at(shown: list[Shown], scale: float) -> int:
    return sum(image.tokens(FIT, at_scale(image.max_pixels, scale, FIT)) for image in shown)


@settings(deadline=None, max_examples=150)
@given(shown=images, share=st.floats(0.01, 1))
def test_images_are_scaled_as_little_as_fits(shown: list[Shown], share: float) -> None:
    room = int(tokens_at(shown, 1.0) * share)
    scale = even_scale(shown, FIT, room)
    if scale is None:
        assert tokens_at(shown, 0.0) > room
    else:
        assert tokens_at(shown, scale) <= room
        assume(scale < 0.999)
        assert tokens_at(shown, scale + 0.001) > room


@given(tokens=st.integers(1, 4096), scale=st.floats(0, 1))
def test_no_image_gets_smaller_than_the_models_least_size_unless_it_was(tokens: int, scale: float) -> None:
    most = at_scale(tokens * 1024, scale, FIT)
    assert min(tokens, 4) * 1024 <= most <= tokens * 1024


@settings(deadline=None, max_examples=100)
@given(shown=images, share=st.floats(0.01, 0.99))
def test_the_bound_that_is_suggested_is_the_largest_that_fits(shown: list[Shown], share: float) -> None:
    def total(bound: int) -> int:
        return sum(image.tokens(FIT, bound * 1024) for image in shown)

    room = int(total(4096) * share)
    bound = even_bound(shown, FIT, room)
    if bound is None:
        assert total(4) > room
    else:
        assert total(bound) <= room < total(bound + 1)


def test_equal_images_shrink_alike() -> None:
    shown = [Shown(2000, 1500, 1024 * 1024)] * 8
    scale = even_scale(shown, FIT, 8 * 300)
    assert scale is not None
    assert {image.tokens(FIT, at_scale(image.max_pixels, scale, FIT)) for image in shown} == {300}
