"""The continuous engine on a card: its operations against the plain ones, its graphs, its memory, its answers."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from producer import Client, Job
from tests.broken_worker import LONG, BrokenWorker
from tests.gpu.conftest import BLOCK, CARD, ERRORS, Draw, assert_close, each_dtype, each_shape, error_of
from tests.worker_process import TINY
from tests.workers.engine.conftest import IMAGES, ask, build_model, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes, with_params
from tests.workers.engine.continuous.test_equality import PROMPTS, expected
from training.questions import held_out
from vqa.images.fit import Fit
from vqa.settings import QueueSettings
from vqa.structured_output.grammar import json_grammar, one_of
from workers.cards import present_cards
from workers.engine.base import Completion, Engine, Prompt, Turn
from workers.engine.continuous import sequence
from workers.engine.continuous.cuda_graphs import mixed_sizes, step_sizes
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.continuous.model_runner import ModelRunner
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Heads
from workers.engine.continuous.pass_inputs import PassShape
from workers.engine.continuous.requests import Request
from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.sequence import Chunk
from workers.engine.detail import ImageTokens
from workers.engine.image import RGBImage
from workers.engine.model.loading import load
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings
from workers.supervisor.link import EXIT_CRASHED

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

WAIT_S = 300.0


def cos_sin_of(tokens: int, width: int) -> Tensor:
    angles = torch.rand(tokens, width // 2, device=CARD) * 50
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@each_dtype
@pytest.mark.parametrize(("rows", "width"), [(257, 2048), (1, 256), (3, 64), (2049, 1152), (5, 3000)])
def test_norms_and_gates(fused: Any, draw: Draw, dtype: torch.dtype, rows: int, width: int) -> None:
    one, other = draw(rows, width, dtype=dtype), draw(rows, width, dtype=dtype)
    weight, bias = draw(width, dtype=dtype), draw(width, dtype=dtype)
    single, summed = ERRORS[dtype]
    for before in (other, None):
        assert_close(fused.add_norm(one, before, weight, 1e-6), reference.add_norm(one, before, weight, 1e-6), single)
        assert_close(
            fused.add_layer_norm(before, one, weight, bias, 1e-6),
            reference.add_layer_norm(before, one, weight, bias, 1e-6),
            single,
        )
    assert_close([fused.silu_product(one)], [reference.silu_product(one)], single)
    wide, shift = draw(3 * width, width, dtype=dtype) * width**-0.5, draw(3 * width, dtype=dtype)
    assert_close([fused.gelu_linear(one, wide, shift)], [reference.gelu_linear(one, wide, shift)], summed)


@each_dtype
@each_shape
@pytest.mark.parametrize("tokens", [1, 257])
def test_queries_and_keys_are_normed_turned_and_written(
    fused: Any, draw: Draw, dtype: torch.dtype, shape: tuple[int, int, int], tokens: int
) -> None:
    queries, groups, width = shape
    heads = Heads(queries, groups, width, draw(width, dtype=dtype), draw(width, dtype=dtype), 1e-6)
    qkv, cos_sin = draw(tokens, (queries + 2 * groups) * width, dtype=dtype), cos_sin_of(tokens, width)
    slot_mapping = torch.randperm(640, device=CARD)[:tokens]
    mine, other, my_values, other_values = (torch.zeros(640, groups, width, dtype=dtype, device=CARD) for _ in range(4))

    made = fused.rotate(qkv, heads, cos_sin, mine, my_values, slot_mapping)
    wanted = reference.rotate(qkv, heads, cos_sin, other, other_values, slot_mapping)

    assert_close([made, mine, my_values], [wanted, other, other_values], ERRORS[dtype][0])


@each_dtype
@pytest.mark.parametrize(("heads", "width"), [(16, 72), (2, 16), (6, 32), (12, 64)])
def test_patches_are_turned(fused: Any, draw: Draw, dtype: torch.dtype, heads: int, width: int) -> None:
    qkv, cos_sin = draw(300, 3 * heads * width, dtype=dtype), cos_sin_of(300, width)

    assert_close(
        fused.rotate_patches(qkv, heads, cos_sin), reference.rotate_patches(qkv, heads, cos_sin), ERRORS[dtype][0]
    )


@each_dtype
@pytest.mark.parametrize(("experts", "count"), [(128, 8), (8, 2), (60, 4)])
def test_the_likeliest_experts_are_chosen(fused: Any, draw: Draw, dtype: torch.dtype, experts: int, count: int) -> None:
    logits = draw(300, experts, dtype=dtype)

    weights, chosen = fused.route(logits, count)

    wanted, likeliest = reference.route(logits, count)
    assert_close([weights], [wanted], ERRORS[dtype][0])
    assert chosen.dtype == likeliest.dtype
    # of some that are alike either may be the likelier one
    assert torch.equal(logits.gather(1, chosen.long()), logits.gather(1, likeliest.long()))
    assert all(len(set(row)) == count for row in chosen.tolist())


def test_logits_that_are_no_numbers_choose_experts_that_there_are(fused: Any) -> None:
    logits = torch.full((4, 60), torch.nan, device=CARD)

    _, chosen = fused.route(logits, 4)

    assert int(chosen.min()) >= 0
    assert int(chosen.max()) < 60


@each_dtype
@pytest.mark.parametrize("tokens", [1, 2, 7, 12, 13, 40, 128, 255, 256, 257, 1000, 3000])
@pytest.mark.parametrize("size", [(128, 768, 2048, 8), (8, 32, 64, 2)], ids=str)
@pytest.mark.parametrize("crowded", [False, True])
def test_experts_of_few_and_of_many_tokens(
    fused: Any, draw: Draw, dtype: torch.dtype, tokens: int, size: tuple[int, int, int, int], crowded: bool
) -> None:
    number, inner, width, count = size
    x, logits = draw(tokens, width, dtype=dtype), draw(tokens, number)
    if crowded:
        # all of them go to the same ones, and nobody to the others
        logits[:, :count] += 100
    weights, chosen = reference.route(logits.to(dtype), count)
    gate_up = draw(number, 2 * inner, width, dtype=dtype) * width**-0.5
    down = draw(number, width, inner, dtype=dtype) * inner**-0.5
    given = (x, weights, chosen, gate_up, down)

    assert_close([fused.experts(*given)], [reference.experts(*given)], ERRORS[dtype][1])


@pytest.fixture(scope="module")
def bundled_exact() -> Bench:
    """The bundled model in float32."""
    return Bench(load(EngineSettings(model=str(TINY), dtype="float32")))


@pytest.fixture(scope="module")
def bundled_rounded() -> Bench:
    """In bfloat16, as it is stored."""
    return Bench(load(EngineSettings(model=str(TINY), dtype="bfloat16")))


@pytest.fixture(scope="module", params=["dense", "experts"])
def random_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand numbers."""
    return build_model(tmp_path_factory.mktemp(request.param), experts=request.param == "experts")


def bench_of(model: Path, dtype: Any) -> Bench:
    return Bench(load(EngineSettings(model=str(model), dtype=dtype)))


def questions(count: int, fit: Fit) -> list[tuple[Prompt, str]]:
    """Prompts about held-out images at the model's size, and the right answers."""

    def scaled(image: Image.Image) -> RGBImage:
        return RGBImage.from_pil(image.convert("RGB").resize(fit.size(*image.size), Image.Resampling.BICUBIC))

    return [
        (make_prompt(f"q{number}", (Turn("user", (scaled(item.image), item.question)),), 16), item.answer)
        for number, item in enumerate(held_out(count))
    ]


def fit_of_bundled() -> Fit:
    return Fit(32, 64 * 64, 256 * 256)


@pytest.mark.parametrize("prefill_tokens", [20, 256])
def test_in_float32_answers_are_those_of_generate_token_for_token(random_model: Path, prefill_tokens: int) -> None:
    bench = bench_of(random_model, "float32")
    sizes = Sizes(slots=5, blocks=40, block_size=BLOCK, prefill_tokens=prefill_tokens)

    made = bench.answer(sizes, {0: PROMPTS[:5], 7: PROMPTS[5:8], 12: PROMPTS[8:]})

    assert {id: each.text for id, each in made.items()} == {p.id: expected(bench, p)[0] for p in PROMPTS}


def test_in_float32_the_bundled_model_answers_as_generate_does(bundled_exact: Bench) -> None:
    prompts = [prompt for prompt, _ in questions(60, fit_of_bundled())]

    made = bundled_exact.answer(Sizes(slots=16, blocks=100, block_size=BLOCK), {0: prompts[:20], 9: prompts[20:]})

    assert {id: each.text for id, each in made.items()} == {p.id: expected(bundled_exact, p)[0] for p in prompts}


def runner_of(bench: Bench, slots: int = 1, budget: int = 256) -> ModelRunner:
    return bench.loop(Sizes(slots=slots, blocks=8 * slots, block_size=BLOCK, prefill_tokens=budget))._runner


def chunk_of(request: Request, slot: int, blocks: tuple[int, ...], start: int = 0, stop: int | None = None) -> Chunk:
    """Tokens `start` up to `stop` of a prompt in that slot, all without them."""
    seq = sequence.Sequence(request.num_tokens, 1, request=request, slot=slot, blocks=blocks)
    return Chunk(seq, start, request.num_tokens if stop is None else stop)


@torch.inference_mode()
def first_logits(bench: Bench, runner: ModelRunner, prompt: Prompt, *cuts: int) -> Tensor:
    """(vocabulary) of the answer's first token, float32; the prompt computed in chunks that end at `cuts`."""
    request = bench.request(prompt)
    ends = [*cuts, request.num_tokens]
    blocks = tuple(range(-(-request.num_tokens // BLOCK)))
    for start, stop in zip([0, *cuts], ends, strict=True):
        made = runner.forward(Batch((), (chunk_of(request, 0, blocks, start, stop),)))
    return made.logits[0].float()


@torch.inference_mode()
def first_logits_of_model(bench: Bench, prompt: Prompt) -> Tensor:
    """By the model's own forward pass."""
    encoded = bench._reference.encode(prompt).tensors
    inputs = {name: tensor.to(CARD) for name, tensor in encoded.items()}
    logits: Tensor = bench.pipe.model(**inputs).logits[0, -1].float()
    return logits


def logits_of(exact: Bench, rounded: Bench, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the engine and of the model's own forward pass in bfloat16, and of the model's in float32."""
    runner = runner_of(rounded)
    wanted = torch.stack([first_logits_of_model(exact, prompt) for prompt in prompts])
    ours = torch.stack([first_logits(rounded, runner, prompt) for prompt in prompts])
    theirs = torch.stack([first_logits_of_model(rounded, prompt) for prompt in prompts])
    return ours, theirs, wanted


def chose_other_experts(made: Tensor, wanted: Tensor) -> Tensor:
    """Return for which prompts, by their logits: another expert changes them by far more than rounding does."""
    return torch.tensor([error_of(*each) > 0.1 for each in zip(made, wanted, strict=True)], device=made.device)


def test_in_bfloat16_the_bundled_models_logits_differ_by_rounding(bundled_exact: Bench, bundled_rounded: Bench) -> None:
    prompts = [prompt for prompt, _ in questions(100, fit_of_bundled())]

    *made, wanted = logits_of(bundled_exact, bundled_rounded, prompts)

    ours, theirs = (error_of(each, wanted) for each in made)
    print(f"relative error of the first logits: {ours:.4f}, of the model's own forward pass: {theirs:.4f}")
    assert ours < 3e-2
    assert ours < 1.5 * theirs


def test_in_bfloat16_so_do_those_of_random_models_but_where_rounding_chooses_other_experts(random_model: Path) -> None:
    # with the weights as they are when they are rounded
    exact = bench_of(random_model, "bfloat16")
    exact.pipe.model.float()
    chats = [
        make_prompt(f"{number}-{prompt.id}", (Turn("user", ("?" * number,)), *prompt.turns), 4)
        for number in range(8)
        for prompt in PROMPTS
    ]

    *made, wanted = logits_of(exact, bench_of(random_model, "bfloat16"), chats)

    assert all(each.isfinite().all() for each in made)
    others = [chose_other_experts(each, wanted) for each in made]
    most = len(chats) // 20 if hasattr(exact.pipe.model.config.text_config, "num_experts") else 0
    assert all(int(each.sum()) <= most for each in others)
    same = ~(others[0] | others[1])
    ours, theirs = (error_of(each[same], wanted[same]) for each in made)
    print(f"relative error of the first logits: {ours:.4f}, of the model's own forward pass: {theirs:.4f}")
    assert ours < 1.5 * theirs


def test_a_prompt_in_chunks_gets_the_logits_that_it_gets_whole(bundled_exact: Bench, bundled_rounded: Bench) -> None:
    prompt = questions(1, fit_of_bundled())[0][0]
    several = make_prompt("several", (Turn("user", (*prompt.turns[0].parts, *prompt.turns[0].parts)),), 4)

    for bench, most in ((bundled_exact, 1e-4), (bundled_rounded, 3e-2)):
        runner = runner_of(bench)
        whole = first_logits(bench, runner, several)
        for cuts in ((1,), (5, 20), (64,), tuple(range(7, bench.request(several).num_tokens, 7))):
            assert error_of(first_logits(bench, runner, several, *cuts), whole) < most


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    """A random model that may see images of 16,384 tokens."""
    folder = build_model(tmp_path / "large", experts=False)
    size = {"shortest_edge": 64 * 64, "longest_edge": 4096 * 4096}
    (folder / "preprocessor_config.json").write_text(json.dumps({**IMAGES, "size": size}))
    return folder


def large_bench(folder: Path, dtype: Any) -> Bench:
    bench = bench_of(folder, dtype)
    bench.encoder._slot_tokens = bench._reference._slot_tokens = 8192
    return bench


def large_prompts() -> list[Prompt]:
    """One of an image of 4096 tokens, between two of small ones."""
    noise = Image.frombytes("RGB", (128, 128), random.Random(1).randbytes(128 * 128 * 3)).resize((2048, 2048))
    large = make_prompt("large", (Turn("user", (RGBImage.from_pil(noise), "what is it?")),), 6)
    return [ask(0, max_new_tokens=6), large, ask(1, max_new_tokens=6)]


@pytest.mark.parametrize("prefill_tokens", [1000, 8192])
def test_in_float32_an_image_of_4096_tokens_beside_small_ones_is_answered_as_by_generate(
    large_model: Path, prefill_tokens: int
) -> None:
    bench, prompts = large_bench(large_model, "float32"), large_prompts()

    sizes = Sizes(slots=3, blocks=100, block_size=BLOCK, prefill_tokens=prefill_tokens)
    made = bench.answer(sizes, {0: prompts})

    assert made["large"].prompt_tokens > 4096
    assert {id: each.text for id, each in made.items()} == {p.id: expected(bench, p)[0] for p in prompts}


def test_in_bfloat16_the_logits_of_an_image_of_4096_tokens_differ_by_rounding(large_model: Path) -> None:
    exact, rounded = large_bench(large_model, "bfloat16"), large_bench(large_model, "bfloat16")
    exact.pipe.model.float()
    prompt = large_prompts()[1]
    runner = rounded.loop(Sizes(slots=1, blocks=80, block_size=BLOCK))._runner
    wanted, theirs = first_logits_of_model(exact, prompt), first_logits_of_model(rounded, prompt)

    for cuts in ((), (1000, 2000, 3000, 4000)):
        ours = error_of(first_logits(rounded, runner, prompt, *cuts), wanted)
        print(f"relative error of the first logits: {ours:.4f}, of the model's own: {error_of(theirs, wanted):.4f}")
        assert ours < max(3e-2, 1.5 * error_of(theirs, wanted))


def test_a_pass_by_a_graph_is_that_without(bundled_rounded: Bench) -> None:
    prompts = [prompt for prompt, _ in questions(8, fit_of_bundled())]
    words = make_prompt("words", (Turn("user", ("what?",)),), 4)
    runner = runner_of(bundled_rounded, slots=8, budget=1024)
    graphs = runner._graphs
    assert graphs is not None

    def run(some: Sequence[Prompt]) -> Tensor:
        batch = Batch((), tuple(chunks_of(bundled_rounded, some)))
        assert graphs.find(PassShape.of(batch))
        # cloned: the next pass overwrites them
        return runner.forward(batch).logits.float().clone()

    groups = [prompts[:1], [words], prompts[:3], [words, *prompts[3:5], words], prompts, [words]]
    by_graph = [run(some) for some in groups]
    runner._graphs = None
    eager = [run(some) for some in groups]

    for one, other in zip(by_graph, eager, strict=True):
        assert error_of(one, other) < 2e-2
    # what other prompts left in the graph's input has no effect
    assert torch.equal(by_graph[1], by_graph[-1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("riding", [False, True])
def test_a_step_by_a_graph_is_that_without(random_model: Path, dtype: str, riding: bool) -> None:
    bench = bench_of(random_model, dtype)
    slots = 24
    runner = runner_of(bench, slots + 1)
    graphs, table = runner._graphs, runner._slot_table
    assert graphs is not None
    shapes = {(graph.shape.rows, bool(graph.shape.chunks)) for graph in graphs.all}
    assert shapes == {*((n, False) for n in step_sizes(slots + 1)), *((n, True) for n in mixed_sizes(256))}
    chunks = chunks_of(bench, [PROMPTS[slot % len(PROMPTS)] for slot in range(slots)])
    for chunk in chunks:
        runner.forward(Batch((), (chunk,)))
    token, length = table.token.clone(), table.length.clone()
    rider = chunk_of(bench.request(PROMPTS[1]), slots, tuple(range(8 * slots, 8 * slots + 8)))

    @torch.inference_mode()
    def step(count: int) -> tuple[Tensor, Tensor]:
        table.token.copy_(token)
        table.length.copy_(length)
        sequences = [chunk.sequence for chunk in reversed(chunks)][:count]
        for seq in sequences:
            seq.num_generated = 2
        made = runner.forward(Batch(tuple(sequences), (rider,) if riding else ()))
        at = made.slots[:count]
        assert at.tolist() == [seq.slot for seq in sequences]
        assert torch.equal(table.token[made.slots], made.greedy)
        assert torch.equal(table.length[at], length[at] + 1)
        # the padding may change
        others = torch.ones(slots + 2, dtype=torch.bool, device=CARD).index_fill(0, made.slots, False)
        others[-1] = False
        assert torch.equal(table.token[others], token[others])
        assert torch.equal(table.length[others], length[others])
        return made.greedy, made.logits.clone()

    for count in (1, 2, 3, 5, 8, 9, 17, 24):
        tokens, logits = step(count)
        runner._graphs = None
        eager_tokens, eager = step(count)
        runner._graphs = graphs
        assert error_of(logits, eager) < (1e-4 if dtype == "float32" else 3e-2)
        if dtype == "float32":
            assert torch.equal(tokens, eager_tokens)


def chunks_of(bench: Bench, prompts: Sequence[Prompt]) -> list[Chunk]:
    """A prompt in each slot, whole."""
    requests = [bench.request(prompt) for prompt in prompts]
    return [chunk_of(each, slot, tuple(range(8 * slot, 8 * slot + 8))) for slot, each in enumerate(requests)]


@pytest.fixture
def running() -> Iterator[Callable[[Engine], Engine]]:
    """Starts engines, and stops them when the test ends."""
    engines: list[Engine] = []

    def start(engine: Engine) -> Engine:
        engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
        engines.append(engine)
        return engine

    yield start
    while engines:
        engines.pop().stop()
    # other processes have the card next
    gc.collect()
    torch.cuda.empty_cache()


def answers(engine: Engine, prompts: Sequence[Prompt]) -> list[Completion]:
    """Without the number of cached tokens, which depends on earlier prompts."""
    futures = [engine.submit(prompt) for prompt in prompts]
    return [replace(future.result(WAIT_S), cached_tokens=0) for future in futures]


def test_the_bundled_model_is_as_often_right_as_in_the_pipeline_engine(
    running: Callable[[Engine], Engine],
) -> None:
    settings = EngineSettings(model=str(TINY))
    asked = questions(600, fit_of_bundled())
    right = []
    for engine in (running(ContinuousEngine(settings, 64)), running(PipelineEngine(settings, 64))):
        made = answers(engine, [prompt for prompt, _ in asked])
        right.append(sum(each.text.strip() == answer for each, (_, answer) in zip(made, asked, strict=True)))
        engine.stop()

    print(f"right of {len(asked)}: continuous {right[0]}, pipeline {right[1]}")
    assert min(right) >= 0.95 * len(asked)
    assert abs(right[0] - right[1]) <= 0.005 * len(asked)


def test_the_same_prompts_get_the_same_answers_again(running: Callable[[Engine], Engine]) -> None:
    engine = running(ContinuousEngine(EngineSettings(model=str(TINY), dtype="float32"), 16))
    prompts = [prompt for prompt, _ in questions(100, fit_of_bundled())]
    seeded = [
        make_prompt(f"s{n}", prompt.turns, 16, temperature=1.5, top_p=0.9, seed=n)
        for n, prompt in enumerate(prompts[:30])
    ]

    first = answers(engine, prompts + seeded)
    again = answers(engine, list(reversed(prompts + seeded)))

    assert list(reversed(again)) == first


def test_structured_answers_have_their_form_and_their_neighbours_are_not_changed(
    running: Callable[[Engine], Engine],
) -> None:
    engine = running(ContinuousEngine(EngineSettings(model=str(TINY), dtype="float32"), 16))
    asked = questions(120, fit_of_bundled())
    plain = [prompt for prompt, _ in asked[:40]]
    alone = answers(engine, plain)
    words = sorted({answer for _, answer in asked})
    choices = [with_params(prompt, id=f"c{n}", grammar=one_of(words)) for n, (prompt, _) in enumerate(asked)]
    schema = {"type": "object", "properties": {"a": {"enum": words}}, "required": ["a"], "additionalProperties": False}
    by_schema = [
        with_params(
            prompt, id=f"j{n}", grammar=json_grammar(json.dumps(schema)), max_new_tokens=64, temperature=1.5, seed=n
        )
        for n, (prompt, _) in enumerate(asked[:40])
    ]
    mixed = [*choices, *plain, *by_schema]
    random.Random(1).shuffle(mixed)

    made = dict(zip((prompt.id for prompt in mixed), answers(engine, mixed), strict=True))

    assert [made[prompt.id] for prompt in plain] == alone
    right = [made[f"c{n}"].text == answer for n, (_, answer) in enumerate(asked)]
    assert sum(right) >= 0.95 * len(asked)
    assert {json.loads(made[prompt.id].text)["a"] for prompt in by_schema} <= set(words)
    again = dict(zip((prompt.id for prompt in mixed), answers(engine, mixed), strict=True))
    assert again == made


#: gigabytes that are left to the engine beside the weights; of the smaller model no more could be filled
@pytest.mark.parametrize(("scale", "left_gib"), [("tiny", 4.0), ("30b", 9.0)])
def test_it_never_runs_out_of_memory(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    running: Callable[[Engine], Engine],
    scale: Any,
    left_gib: float,
) -> None:
    """Images and answers of all sizes, more than there is room for at once, on a card that is nearly full."""
    from bench.engine import shape30b

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if scale == "30b" and free < 72 * 2**30:
        pytest.skip("needs a card of 80 GB that is free")
    ballast: list[Tensor] = []

    def load_and_fill(settings: EngineSettings) -> Any:
        pipe = shape30b.load(settings)
        # where tokens are drawn, so would one that ends the text
        pipe.model.generation_config.eos_token_id = None
        torch.cuda.empty_cache()
        rest, _ = torch.cuda.mem_get_info()
        ballast.append(torch.empty(int(rest - left_gib * 2**30), dtype=torch.uint8, device=CARD))
        return pipe

    settings = EngineSettings(model=str(shape30b.write_folder(tmp_path, scale)), slot_tokens=8192)
    engine = ContinuousEngine(settings, 24, load=load_and_fill)
    running(engine)
    assert engine.fit is not None
    block_manager = engine.built.block_manager
    if scale == "30b":
        assert block_manager.num_blocks < 24 * 8192 // BLOCK, "the cache is not to hold everybody"
    prompts = mixed_prompts(400, engine.fit)
    before = torch.cuda.memory_stats()

    made = answers(engine, prompts)

    after = torch.cuda.memory_stats()
    reserved_gib = torch.cuda.max_memory_reserved() / 2**30
    print(f"{block_manager.num_blocks * BLOCK} tokens of cache; {reserved_gib:.1f} GiB reserved at most")
    print(f"allocations tried again {after['num_alloc_retries'] - before['num_alloc_retries']}; {engine.stats()}")
    assert [each.completion_tokens for each in made] == [prompt.params.max_new_tokens for prompt in prompts]
    assert after["num_ooms"] == before["num_ooms"]
    assert "one by one" not in caplog.text
    assert block_manager.num_free == block_manager.num_blocks
    ballast.clear()


def mixed_prompts(count: int, fit: Fit) -> list[Prompt]:
    """Of 1 to 4 images of 64 to 2000 pixels a side, one of them at times of high detail, and 8 to 200 new tokens."""
    draw = random.Random(5)
    usual = ImageTokens().usual_fit(fit)

    def drawn_image(fit: Fit) -> RGBImage:
        size = fit.size(draw.randint(64, 2000), draw.randint(64, 2000))
        noise = Image.frombytes("RGB", (32, 32), draw.randbytes(32 * 32 * 3))
        return RGBImage.from_pil(noise.resize(size))

    def drawn_images(number: int) -> list[RGBImage]:
        first = drawn_image(usual if number % 8 else fit)
        return [first, *(drawn_image(usual) for _ in range(draw.randint(0, 3)))]

    return [
        make_prompt(
            f"{number}",
            (Turn("user", (*drawn_images(number), "what? " * draw.randint(1, 100))),),
            draw.randint(8, 200),
            temperature=draw.choice([0.0, 1.0]),
            top_p=draw.choice([1.0, 0.9]),
            lane=draw.choice(["interactive", "bulk"]),
            alone=draw.random() < 0.01,
        )
        for number in range(count)
    ]


def test_a_lost_context_ends_the_worker_once_and_everybody_is_answered_by_the_next(
    queue_settings: QueueSettings, redis_url: str, tmp_path: Path
) -> None:
    card = {"VQA_CARDS": f"{present_cards()[0]}", "VQA_ENGINE": "continuous", "VQA_MODEL": str(TINY), "VQA_SLOTS": "2"}
    innocent = [f"innocent{number}" for number in range(6)]
    with Client(queue_settings) as client:
        for id in ("culprit", *innocent):
            # attempts at a job that has lost a worker do not ask its retry policy
            words = "word " * LONG if id == "culprit" else "What colour is it?"
            client.submit(
                Job(id=id, messages=[{"role": "user", "content": words}], timeout_s=WAIT_S, retry={"attempts": 1})
            )
        lost = BrokenWorker(redis_url, "lost", tmp_path / "lost.log", BREAKS="assert", **card)
        try:
            assert lost.process.wait(WAIT_S) == EXIT_CRASHED, lost.log.read_text()
        finally:
            lost.stop()
        log = lost.log.read_text()
        print(log)
        assert "device-side assert" in log
        assert log.count("the engine crashed, this worker ends") == 1
        heir = BrokenWorker(redis_url, "heir", tmp_path / "heir.log", **card)
        try:
            attempts = {id: client.answer(id, timeout_s=WAIT_S).attempt for id in ("culprit", *innocent)}
        finally:
            heir.stop()
    assert attempts["culprit"] == 2
    # of the others at most those that had the other slot while the card was lost
    assert sorted(attempts.values())[:-2] == [1] * 5
