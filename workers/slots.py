"""How many slots a worker gets, worked out before anything is loaded.

From the model's config.json and NVML's free memory (or the machine's, without a card): CUDA is never opened and torch
never imported, so that a supervisor can plan for cards that its workers will own.

A model spread over several cards is taken to lie on them in equal parts, weights and cache, as accelerate balances it:
so each card counts for no more than the one with the least free memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vqa.errors import NotReady, SettingsError
from workers.cards import Cards
from workers.engine.model.footprint import ModelShape, machine_free, read_shape
from workers.engine.settings import EngineSettings

GIB = 2**30

#: more are hardly faster, and each needs a thread: in the pipeline engine, and in the continuous one
MOST_SLOTS = 64
MOST_CONTINUOUS_SLOTS = 128
#: without a card, and for the echo engine
DEFAULT_SLOTS = 16

#: what prefill, logits and the libraries take beside weights and cache, at least and as a part of what is free
_RESERVE_BYTES = GIB
_RESERVE_PART = 0.1


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What goes where in the memory of a worker's cards; `str()` of it is the line that is printed at start."""

    slots: int
    weights_bytes: int = 0
    kv_slot_bytes: int = 0
    reserve_bytes: int = 0
    #: on all cards together, before anything is loaded; None where nothing is loaded
    free_bytes: int | None = None
    #: numbers or UUIDs as NVML has them; none is the CPU
    cards: Sequence[int | str] = ()

    @property
    def left_bytes(self) -> int:
        """What nothing has been planned for."""
        taken = self.weights_bytes + self.slots * self.kv_slot_bytes + self.reserve_bytes
        return (self.free_bytes or 0) - taken

    @property
    def fits(self) -> int:
        """The most slots that fit; negative where not even the weights do."""
        room = (self.free_bytes or 0) - self.weights_bytes - self.reserve_bytes
        return room // max(1, self.kv_slot_bytes)

    def __str__(self) -> str:
        if self.free_bytes is None:
            return f"{self.slots} slots, no model"
        return (
            f"{_place(self.cards)}: {self.slots} slots; {_gib(self.free_bytes)} free = weights "
            f"{_gib(self.weights_bytes)} + {self.slots} x {self.kv_slot_bytes / 2**20:.1f} MiB cache + "
            f"{_gib(self.reserve_bytes)} for activations + {_gib(self.left_bytes)} left"
        )


def parse_slots(text: str) -> int | Mapping[Cards, int]:
    """`16` for every worker, or by its cards: `0=16,1=8`, `0+1=16`. Raises SettingsError."""
    if re.fullmatch(r"\s*\d+\s*", text):
        return _number(text)
    entries = [re.fullmatch(r"\s*(\d+(?:\+\d+)*)\s*=\s*(\d+)\s*", entry) for entry in text.split(",")]
    by_cards = {_cards(entry[1]): _number(entry[2]) for entry in entries if entry}
    if len(by_cards) < len(entries):
        raise SettingsError("VQA_SLOTS: slots are a number for every card, such as 16, or one each: 0=16,1=8 or 0+1=16")
    return by_cards


def slots_of(slots: int | Mapping[Cards, int] | None, cards: Cards) -> int | None:
    """What `parse_slots` made of the setting says of a worker; None where its cards' memory decides."""
    return slots.get(cards) if isinstance(slots, Mapping) else slots


def check_spread(settings: EngineSettings, cards: Sequence[int | str]) -> None:
    """Raises SettingsError where a worker of these cards cannot be as the settings say."""
    if len(cards) > 1 and settings.replicas > 1:
        raise SettingsError(
            f"VQA_REPLICAS={settings.replicas}: a model spread over {_place(cards)} is loaded once; "
            "replicas are for models that fit one card several times"
        )


def plan_slots(settings: EngineSettings, cards: Sequence[int | str], slots: int | None = None) -> SlotPlan:
    """The plan for a worker of these cards (NVML's numbers or UUIDs; none is the CPU), with `slots` where it is said.

    Raises NotReady when they do not fit, naming what would, and SettingsError.
    """
    if settings.engine == "echo":
        return SlotPlan(slots or DEFAULT_SLOTS)
    check_spread(settings, cards)
    shape = read_shape(settings, on_card=bool(cards))
    free = len(cards) * min(map(free_bytes, cards)) if cards else free_bytes(None)
    return fit_slots(settings, shape, free, cards, slots)


def fit_slots(
    settings: EngineSettings, shape: ModelShape, free: int, cards: Sequence[int | str], slots: int | None = None
) -> SlotPlan:
    """The arithmetic of `plan_slots`, with what is free on all cards. Raises NotReady."""
    aside = max(_RESERVE_BYTES * max(1, len(cards)), int(free * _RESERVE_PART)) + shape.work_bytes

    def planned(slots: int) -> SlotPlan:
        return SlotPlan(
            slots,
            weights_bytes=shape.weights_bytes * settings.replicas,
            kv_slot_bytes=shape.kv_token_bytes * settings.planned_tokens,
            reserve_bytes=aside,
            free_bytes=free,
            cards=cards,
        )

    fits = planned(0).fits
    if fits < 1:
        raise NotReady(_too_large(planned(1), settings))
    if slots is not None and slots > fits:
        raise NotReady(
            f"{slots} slots of {settings.planned_tokens} tokens do not fit {_place(cards)}: they lack "
            f"{_gib(-planned(slots).left_bytes)} ({planned(fits)}); {fits} slots fit (VQA_SLOTS)"
            f"{_smaller_slots(settings, slots, fits)}"
        )
    most = MOST_CONTINUOUS_SLOTS if settings.engine == "continuous" else MOST_SLOTS
    return planned(slots or min(fits, most if cards else DEFAULT_SLOTS))


def free_bytes(card: int | str | None) -> int:
    """Memory that nobody uses: the card's by NVML, else the machine's. Raises NotReady."""
    if card is None:
        return machine_free()
    import pynvml

    try:
        pynvml.nvmlInit()
        by = pynvml.nvmlDeviceGetHandleByIndex if isinstance(card, int) else pynvml.nvmlDeviceGetHandleByUUID
        return int(pynvml.nvmlDeviceGetMemoryInfo(by(card)).free)
    except pynvml.NVMLError as error:
        raise NotReady(f"cannot read the memory of card {card} (VQA_CARDS; cpu for none): {error}") from None


def _too_large(plan: SlotPlan, settings: EngineSettings) -> str:
    weights = _gib(plan.weights_bytes) + (f" ({settings.replicas} replicas)" if settings.replicas > 1 else "")
    fewer = " or fewer replicas (VQA_REPLICAS)" if settings.replicas > 1 else ""
    smaller = ", quantise it (VQA_QUANT)" if settings.quant == "none" else ""
    spread = ", spread it over several cards (VQA_CARDS=0+1)" if plan.cards and settings.replicas == 1 else ""
    return (
        f"{settings.model} does not fit {_place(plan.cards)}: its weights take {weights}, one slot of "
        f"{settings.planned_tokens} tokens {_gib(plan.kv_slot_bytes)}, activations {_gib(plan.reserve_bytes)}, and "
        f"{_gib(plan.free_bytes or 0)} is free; take a smaller model (VQA_MODEL){fewer}{smaller}{spread}, or smaller "
        "slots (VQA_SLOT_TOKENS)"
    )


def _smaller_slots(settings: EngineSettings, slots: int, fits: int) -> str:
    # the continuous engine plans for what is usual, whatever a slot may hold
    if settings.engine == "continuous":
        return ""
    return f", or {slots} of {settings.slot_tokens * fits // slots} tokens (VQA_SLOT_TOKENS)"


def _number(text: str) -> int:
    if not 1 <= int(text) <= 1024:
        raise SettingsError("VQA_SLOTS: a card has 1 to 1024 slots")
    return int(text)


def _cards(text: str) -> Cards:
    return tuple(int(card) for card in text.split("+"))


def _place(cards: Sequence[int | str]) -> str:
    return f"card{'s' * (len(cards) > 1)} {'+'.join(map(str, cards))}" if cards else "the CPU"


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
