from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tests.workers.engine.conftest import image as image_number
from vqa.images.fit import Fit
from workers.engine.image import RGBImage

sides = st.integers(1, 20_000)


@given(width=sides, height=sides, factor=st.sampled_from([14, 28, 32]), least=st.integers(1, 10**6), more=st.data())
def test_a_fit_is_the_size_that_transformers_makes(
    width: int, height: int, factor: int, least: int, more: st.DataObject
) -> None:
    assume(max(width, height) <= 200 * min(width, height))
    most = more.draw(st.integers(least, 2 * 10**7))

    ours = Fit(factor, least, most).size(width, height)

    assert ours[::-1] == smart_resize(height, width, factor, least, most)


@given(width=sides, height=sides, most=st.integers(200, 20_000))
def test_a_image_that_fits_is_left_as_it_is(width: int, height: int, most: int) -> None:
    assume(max(width, height) <= 200 * min(width, height))
    fit = Fit(32, 4 * 32 * 32, most * 32 * 32)

    fitted = fit.size(width, height)

    assert fit.size(*fitted) == fitted


def test_a_image_is_what_pillow_had() -> None:
    image = Image.effect_noise((40, 30), 60).convert("RGB")

    taken = RGBImage.from_pil(image)

    assert (taken.width, taken.height, len(taken.pixels)) == (40, 30, 40 * 30 * 3)
    assert taken.pil.tobytes() == image.tobytes()


def test_images_of_equal_pixels_and_size_have_one_name() -> None:
    assert image_number(1).digest == image_number(1).digest != image_number(2).digest
    wide, high = (RGBImage.from_pil(Image.new("RGB", size)) for size in ((40, 30), (30, 40)))
    assert wide.pixels == high.pixels
    assert wide.digest != high.digest
