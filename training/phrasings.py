"""Wordings of questions: templates by family, and the small variations that people type.

Knows only words; `training.questions` knows what is true of a scene.
"""

import random

FAMILIES: tuple[str, ...] = ("colour", "shape", "how many", "where", "yes/no")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five")

# {s} is the subject, e.g. "circle", "red thing", "blue squares"; {colour} and {picture} vary by spelling and synonym.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "colour": (
        "What {colour} is the {s}?",
        "What {colour} is the {s} in the {picture}?",
        "What is the {colour} of the {s}?",
        "What's the {colour} of the {s}?",
        "Which {colour} is the {s}?",
        "Which {colour} does the {s} have?",
        "Tell me the {colour} of the {s}.",
    ),
    "shape": (
        "What shape is the {s}?",
        "What shape is the {s} in the {picture}?",
        "What is the shape of the {s}?",
        "What's the shape of the {s}?",
        "Which shape is the {s}?",
        "What is the {s}?",
        "What kind of shape is the {s}?",
        "Tell me the shape of the {s}.",
    ),
    "how many": (
        "How many {s} are there?",
        "How many {s} are there in the {picture}?",
        "How many {s} are in the {picture}?",
        "How many {s} do you see?",
        "How many {s} can you see?",
        "How many {s} does the {picture} show?",
        "What is the number of {s}?",
        "Count the {s}.",
    ),
    "where": (
        "Where is the {s}?",
        "Where's the {s}?",
        "Where is the {s} in the {picture}?",
        "Where can you see the {s}?",
        "In which corner is the {s}?",
        "Which corner is the {s} in?",
        "In which part of the {picture} is the {s}?",
        "What is the position of the {s}?",
    ),
    "yes/no": (
        "Is there {a} {s}?",
        "Is there {a} {s} in the {picture}?",
        "Is there any {s}?",
        "Do you see {a} {s}?",
        "Can you see {a} {s}?",
        "Can you see {a} {s} in the {picture}?",
        "Does the {picture} show {a} {s}?",
        "Does the {picture} contain {a} {s}?",
    ),
}
NOUNS: tuple[tuple[str, str], ...] = (("shape", "shapes"), ("thing", "things"), ("object", "objects"))
PICTURES: tuple[str, ...] = ("picture", "image")
SYSTEM_MESSAGES: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You answer questions about pictures.",
    "Answer in one word.",
    "Be brief.",
    "You are a helpful assistant. Answer briefly.",
)


def noun(rng: random.Random, plural: bool = False) -> str:
    """Draw a word for any shape."""
    return rng.choice(NOUNS)[plural]


def phrase(rng: random.Random, family: str, subject: str) -> str:
    """Draw one of the family's questions about the subject, with variations in spelling and case."""
    article = "an" if subject[0] in "aeio" else "a"
    spelling, picture = rng.choice(("colour", "color")), rng.choice(PICTURES)
    text = rng.choice(TEMPLATES[family]).format(s=subject, a=article, colour=spelling, picture=picture)
    if rng.random() < 0.3:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.25:
        text = text.rstrip("?.")
    return text


def every_question() -> list[str]:
    """Return every template with sample words, for the tokenizer's corpus."""
    subjects = ("circle", "red thing")
    return [
        template.format(s=subject, a=article, colour=spelling, picture=picture)
        for templates in TEMPLATES.values()
        for template in templates
        for subject in subjects
        for article in ("a", "an")
        for spelling in ("colour", "color")
        for picture in PICTURES
    ]
