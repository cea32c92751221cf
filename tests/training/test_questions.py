"""Questions are true, clear and, in training, never about what is held out."""

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from training.palette import COLOUR_SHIFT, COLOURS, GROUNDS, OTHER, PLURALS, SHAPES, SIZES
from training.phrasings import FAMILIES, NUMBERS
from training.questions import Item, familiar, held_out, training_questions, training_scene
from training.scenes import Scene, Thing, compose, paint
from training.split import ALL_PAIRS, HELD_OUT_GROUNDS, HELD_OUT_PAIRS, TRAINING_PAIRS

SEEDS = st.integers(0, 2**32)
ONE_OF = {plural: shape for shape, plural in PLURALS.items()}


def words(question: str) -> list[str]:
    return question.lower().rstrip("?.").split()


def named(question: str) -> tuple[str | None, str | None]:
    """The colour and the shape that a question names."""
    said = [ONE_OF.get(word, word) for word in words(question)]
    return next((w for w in said if w in COLOURS), None), next((w for w in said if w in SHAPES), None)


def corner(thing: Thing, scene: Scene) -> str:
    across = "left" if thing.x < scene.width / 2 else "right"
    return ("top " if thing.y < scene.height / 2 else "bottom ") + across


def matching(scene: Scene, question: str) -> list[Thing]:
    """The things that fit a question's colour, shape and corner."""
    colour, shape = named(question)
    place = next((p for p in ("top left", "top right", "bottom left", "bottom right") if p in question), None)
    return [
        thing
        for thing in scene.things
        if colour in (None, thing.colour)
        and shape in (None, thing.shape)
        and (place is None or corner(thing, scene) == place)
    ]


def true_answer(scene: Scene, family: str, question: str) -> str:
    """Found anew from the scene, in another way than the generator's."""
    found = matching(scene, question)
    if family == "how many":
        return NUMBERS[len(found)]
    if family == "yes/no":
        return "yes" if found else "no"
    assert len(found) == 1, "the question does not say which thing it means"
    return {"colour": found[0].colour, "shape": found[0].shape, "where": corner(found[0], scene)}[family]


@given(SEEDS, st.sampled_from(SIZES))
@settings(max_examples=300, deadline=None)
def test_every_training_answer_is_true(seed: int, size: tuple[int, int]) -> None:
    rng = random.Random(seed)
    scene = training_scene(rng, size)
    for family, question, answer in training_questions(rng, scene, 6):
        assert answer == true_answer(scene, family, question), question


@given(SEEDS, st.sampled_from(SIZES))
@settings(max_examples=300, deadline=None)
def test_training_neither_draws_nor_names_a_held_out_pair(seed: int, size: tuple[int, int]) -> None:
    rng = random.Random(seed)
    scene = training_scene(rng, size)
    assert (size, scene.ground) not in HELD_OUT_GROUNDS
    for thing in scene.things:
        assert not {(colour, thing.shape) for colour in (thing.colour, *thing.doubtful)} & HELD_OUT_PAIRS
    assert not {named(question) for _, question, _ in training_questions(rng, scene, 6)} & HELD_OUT_PAIRS


@given(SEEDS, st.sampled_from(SIZES))
@settings(max_examples=300, deadline=None)
def test_no_question_names_a_colour_that_something_else_might_be_called(seed: int, size: tuple[int, int]) -> None:
    rng = random.Random(seed)
    scene = training_scene(rng, size)
    doubtful = {colour for thing in scene.things for colour in thing.doubtful}
    for _, question, answer in training_questions(rng, scene, 6):
        assert named(question)[0] not in doubtful
        assert OTHER not in (*words(question), answer)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_held_out_item_is_true_and_shows_a_held_out_pair(seed: int) -> None:
    for item in held_out(10, seed):
        assert item.answer == true_answer(item.scene, item.family, item.question), item.question
        assert {thing.pair for thing in item.scene.things} & HELD_OUT_PAIRS
        assert item.image.size == item.size


def about_a_held_out_pair(item: Item) -> bool:
    if item.family == "yes/no":
        return named(item.question) in HELD_OUT_PAIRS
    return matching(item.scene, item.question)[0].pair in HELD_OUT_PAIRS


def test_held_out_questions_ask_about_held_out_pairs_except_when_they_count() -> None:
    assert all(about_a_held_out_pair(item) for item in held_out(300) if item.family != "how many")


def test_held_out_items_share_the_families_and_half_their_grounds_are_held_out() -> None:
    items = list(held_out(1000))
    assert {family: sum(item.family == family for item in items) for family in FAMILIES} == dict.fromkeys(FAMILIES, 200)
    assert sum((item.size, item.ground) in HELD_OUT_GROUNDS for item in items) == 500


def test_held_out_items_are_the_same_for_the_same_seed() -> None:
    for one, again in zip(held_out(20, 3), held_out(20, 3), strict=True):
        assert (one.question, one.answer, one.scene) == (again.question, again.answer, again.scene)
        assert ImageChops.difference(one.image, again.image).getbbox() is None


def test_held_out_items_are_not_those_of_another_seed() -> None:
    assert [item.scene for item in held_out(5, 0)] != [item.scene for item in held_out(5, 1)]


def test_familiar_items_are_true() -> None:
    assert all(item.answer == true_answer(item.scene, item.family, item.question) for item in familiar(200))


def test_the_split_leaves_every_colour_and_shape_to_training() -> None:
    assert {colour for colour, _ in TRAINING_PAIRS} == set(COLOURS)
    assert {shape for _, shape in TRAINING_PAIRS} == set(SHAPES)
    assert set(TRAINING_PAIRS) | HELD_OUT_PAIRS == set(ALL_PAIRS)
    assert all(size in SIZES and ground in GROUNDS for size, ground in HELD_OUT_GROUNDS)


def test_a_shifted_colour_is_nearest_to_a_base_of_its_own_name() -> None:
    bases = [(base, name) for name, own in COLOURS.items() for base in own]
    furthest = math.sqrt(3) * COLOUR_SHIFT
    for base, name in bases:
        assert all(math.dist(base, other) > 2 * furthest for other, others_name in bases if others_name != name)


@given(SEEDS, st.sampled_from(SIZES), st.sampled_from(GROUNDS))
@settings(max_examples=100, deadline=None)
def test_things_neither_touch_nor_leave_the_frame(seed: int, size: tuple[int, int], ground: str) -> None:
    scene = compose(random.Random(seed), size, ground, ALL_PAIRS)
    assert 1 <= len(scene.things) <= 5
    for number, thing in enumerate(scene.things):
        assert thing.radius < thing.x < size[0] - thing.radius
        assert thing.radius < thing.y < size[1] - thing.radius
        for other in scene.things[:number]:
            assert math.hypot(thing.x - other.x, thing.y - other.y) > thing.radius + other.radius


@given(SEEDS, st.sampled_from(GROUNDS))
@settings(max_examples=50, deadline=None)
def test_the_middle_of_a_thing_has_its_colour(seed: int, ground: str) -> None:
    rng = random.Random(seed)
    scene = compose(rng, (192, 192), ground, ALL_PAIRS)
    image: Image.Image = paint(rng, scene)
    for thing in scene.things:
        assert image.getpixel((round(thing.x), round(thing.y))) == thing.rgb
