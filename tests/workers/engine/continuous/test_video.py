"""Videos in the continuous engine get the numbers, features and answers that transformers gives them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.engine.conftest import image, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes
from tests.workers.engine.videos import video
from vqa.errors import InvalidJob
from workers.engine.base import Prompt, Turn
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.pipeline.encoding import Encoder
from workers.engine.video import Video


@pytest.fixture(params=["dense_bench", "expert_bench", "bundled_bench"], scope="module")
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def prompts(bench: Bench) -> list[Prompt]:
    """Videos of one to seven frames, alone, with images, and twice the same."""

    def made(frames: int, first: int = 0) -> Video:
        return video(bench.pipe.processor, frames, first)

    same = made(4)
    still = Video((same.frames[0],) * 4, (0.0, 0.5, 1.0, 1.5))
    chats: tuple[tuple[Turn, ...], ...] = (
        (Turn("user", (made(4), "what happens?")),),
        (Turn("user", ("before ", made(7, first=10), "and after")),),
        (Turn("user", (image(1), made(2, first=20), image(2), "differ how?")),),
        (Turn("user", (same, "a?")), Turn("assistant", ("b",)), Turn("user", (made(1, first=30), same, "c?"))),
        (Turn("user", (still, "does it move?")),),
        (Turn("user", (image(3), "no video")),),
    )
    return [make_prompt(f"p{number}", turns, 12) for number, turns in enumerate(chats)]


def test_tokens_positions_and_patches_are_those_of_transformers(bench: Bench, prompts: list[Prompt]) -> None:
    for prompt in prompts:
        made, expected = bench.encoder.encode(prompt), Encoder(bench.pipe, slot_tokens=4096).encode(prompt).tensors
        grids = {name: expected.get(name) for name in ("image_grid_thw", "video_grid_thw")}
        positions, delta = bench.pipe.model.model.get_rope_index(
            input_ids=expected["input_ids"], mm_token_type_ids=expected["mm_token_type_ids"], **grids
        )
        assert made.tokens.tolist() == expected["input_ids"][0].tolist()
        assert torch.equal(made.positions, positions[:, 0].T)
        assert made.mrope_delta == delta.item()
        video_id = bench.pipe.processor.video_token_id
        spans = [span for span in made.images if made.tokens[span.start] == video_id]
        if spans:
            patches = bench.vision._patches(spans)
            torch.testing.assert_close(patches, expected["pixel_values_videos"], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_features_are_those_of_get_video_features(bench: Bench, prompts: list[Prompt]) -> None:
    prompt = prompts[1]
    inputs = Encoder(bench.pipe, slot_tokens=4096).encode(prompt).tensors
    expected = bench.pipe.model.model.get_video_features(
        inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
    )

    images = bench.encoder.encode(prompt).images
    encoded = dict(bench.vision.encode_images(images))
    made = torch.cat([encoded[image] for image in images], dim=1)

    # one tensor of all videos, or one of each, by release and by field
    parts = (expected.pooler_output, *expected.deepstack_features)
    layers: list[Tensor] = [part if isinstance(part, Tensor) else torch.cat(part) for part in parts]
    torch.testing.assert_close(made, torch.stack(layers), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefill_tokens", [7, 20, 64, 256])
@pytest.mark.parametrize("reuse_bytes", [0, 10**9], ids=["forgotten", "reused"])
def test_answers_are_those_of_generate_however_a_prompt_is_cut(
    bench: Bench, prompts: list[Prompt], prefill_tokens: int, reuse_bytes: int
) -> None:
    sizes = Sizes(slots=3, blocks=160, prefill_tokens=prefill_tokens, reuse_bytes=reuse_bytes)

    made = bench.answer(sizes, {0: prompts[:3], 5: prompts[3:]})

    assert {id: completion.text.split() for id, completion in made.items()} == {
        prompt.id: [str(token) for token in bench.expected(prompt) if token not in bench.ends] for prompt in prompts
    }


def test_frames_that_do_not_change_are_seen_once(bench: Bench, prompts: list[Prompt]) -> None:
    still, moving = (bench.request(prompts[number]).images for number in (4, 0))

    assert len({span.digest for span in still}) == 1
    assert {len(span.pixels) for span in still} == {1}
    assert len({span.digest for span in moving}) == len(moving) == 2


def test_a_template_without_a_place_for_videos_is_told(dense_bench: Bench) -> None:
    processor = copy.deepcopy(dense_bench.pipe.processor)
    seen = video(processor, 2)
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c.get('text', '') }}{% endfor %}{% endfor %}"
    )

    with pytest.raises(InvalidJob, match="no place for a video"):
        RequestEncoder(processor, 4096).encode(make_prompt("a", (Turn("user", ("what?", seen)),), 4))


def test_a_video_that_a_user_wrote_as_text_is_text(dense_bench: Bench) -> None:
    encoder: Any = dense_bench.encoder
    words = "<|vision_start|><|video_pad|><|vision_end|>"

    made = encoder.encode(make_prompt("a", (Turn("user", (video(dense_bench.pipe.processor, 2), words)),), 4))

    assert len(made.images) == 1
