"""Plans how many slots a worker gets, before anything is loaded.

The plan comes from the model's config.json and NVML's free memory (without a card, the machine's). CUDA is never opened
and torch never imported, so the supervisor can plan for the cards of its workers.

A model spread over several cards is assumed to take equal parts of them, weights and cache, as accelerate balances it.
So each card counts for no more than the one with the least free memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vqa.errors import NotReady, SettingsError
from workers.cards import Cards
from workers.engine.model.footprint import ModelFootprint, free_memory, read_footprint
from workers.engine.settings import EngineSettings

GIB = 2**30

#: more are hardly faster, and each needs a thread
MAX_SLOTS = 64
#: In the continuous engine 256 slots answer 36.0 jobs/s where 128 answer 31.9 (the default model on one H200, answers
#: of 64 tokens). More were not measured: each takes 1.25 threads with 3 open files, and all answers take longer.
MAX_CONTINUOUS_SLOTS = 256
#: on the CPU and for the echo engine
DEFAULT_SLOTS = 16

#: for prefill, logits and libraries: at least this much, and at least this fraction of the free memory
_RESERVE_BYTES = GIB
_RESERVE_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """How a worker uses the memory of its cards; `str()` gives the line that is logged at start."""

    slots: int
    weights_bytes: int = 0
    kv_slot_bytes: int = 0
    reserve_bytes: int = 0
    #: on all cards together before loading; None if there is no model
    free_bytes: int | None = None
    #: NVML's numbers or UUIDs; none is the CPU
    cards: Sequence[int | str] = ()

    @property
    def unused_bytes(self) -> int:
        used = self.weights_bytes + self.slots * self.kv_slot_bytes + self.reserve_bytes
        return (self.free_bytes or 0) - used

    @property
    def max_slots(self) -> int:
        """The most slots that fit; negative if not even the weights do."""
        cache = (self.free_bytes or 0) - self.weights_bytes - self.reserve_bytes
        return cache // max(1, self.kv_slot_bytes)

    def __str__(self) -> str:
        if self.free_bytes is None:
            return f"{self.slots} slots, no model"
        return (
            f"{_place(self.cards)}: {self.slots} slots; {_gib(self.free_bytes)} free = weights "
            f"{_gib(self.weights_bytes)} + {self.slots} x {self.kv_slot_bytes / 2**20:.1f} MiB cache + "
            f"{_gib(self.reserve_bytes)} for activations + {_gib(self.unused_bytes)} left"
        )


def parse_slots(text: str) -> int | Mapping[Cards, int]:
    """Parse VQA_SLOTS: `16` for every worker, or by its cards, `0=16,1=8` or `0+1=16`. Raises SettingsError."""
    if re.fullmatch(r"\s*\d+\s*", text):
        return _number(text)
    entries = [re.fullmatch(r"\s*(\d+(?:\+\d+)*)\s*=\s*(\d+)\s*", entry) for entry in text.split(",")]
    by_cards = {_cards(entry[1]): _number(entry[2]) for entry in entries if entry}
    if len(by_cards) < len(entries):
        raise SettingsError("VQA_SLOTS: give one number for every card, as 16, or one per card: 0=16,1=8 or 0+1=16")
    return by_cards


def slots_for(slots: int | Mapping[Cards, int] | None, cards: Cards) -> int | None:
    """Look up a worker's slots in the result of `parse_slots`; None if the memory of its cards decides."""
    return slots.get(cards) if isinstance(slots, Mapping) else slots


def check_spread(settings: EngineSettings, cards: Sequence[int | str]) -> None:
    """Raise SettingsError if the settings do not suit a worker on these cards."""
    if len(cards) > 1 and settings.replicas > 1:
        raise SettingsError(
            f"VQA_REPLICAS={settings.replicas}: a model spread over {_place(cards)} is loaded once; replicas are for "
            "a model that fits on one card several times"
        )


def plan_slots(settings: EngineSettings, cards: Sequence[int | str], slots: int | None = None) -> SlotPlan:
    """Plan a worker on these cards (NVML's numbers or UUIDs; none is the CPU), with `slots` if it is given.

    Raises NotReady if it does not fit, with a suggestion, and SettingsError.
    """
    if settings.engine == "echo":
        return SlotPlan(slots or DEFAULT_SLOTS)
    if settings.engine == "remote":
        # an upper bound: how many are used, the servers decide
        return SlotPlan(slots or MAX_SLOTS)
    check_spread(settings, cards)
    shape = read_footprint(settings, on_card=bool(cards))
    free = len(cards) * min(map(free_bytes, cards)) if cards else free_bytes(None)
    return fit_slots(settings, shape, free, cards, slots)


def fit_slots(
    settings: EngineSettings, shape: ModelFootprint, free: int, cards: Sequence[int | str], slots: int | None = None
) -> SlotPlan:
    """Plan slots for `free` bytes on all cards together. Raises NotReady."""
    reserve = max(_RESERVE_BYTES * max(1, len(cards)), int(free * _RESERVE_FRACTION)) + shape.work_bytes

    def planned(slots: int) -> SlotPlan:
        return SlotPlan(
            slots,
            weights_bytes=shape.weights_bytes * settings.replicas,
            kv_slot_bytes=shape.kv_token_bytes * settings.planned_tokens,
            reserve_bytes=reserve,
            free_bytes=free,
            cards=cards,
        )

    max_slots = planned(0).max_slots
    if max_slots < 1:
        raise NotReady(_too_large(planned(1), settings))
    if slots is not None and slots > max_slots:
        raise NotReady(
            f"{slots} slots of {settings.planned_tokens} tokens do not fit {_place(cards)}: "
            f"{_gib(-planned(slots).unused_bytes)} is missing ({planned(max_slots)}); {max_slots} slots fit (VQA_SLOTS)"
            f"{_smaller_slots(settings, slots, max_slots)}"
        )
    limit = MAX_CONTINUOUS_SLOTS if settings.engine == "continuous" else MAX_SLOTS
    return planned(slots or min(max_slots, limit if cards else DEFAULT_SLOTS))


def free_bytes(card: int | str | None) -> int:
    """Return the free memory of a card, from NVML, or of the machine for None. Raises NotReady."""
    if card is None:
        return free_memory()
    import pynvml

    try:
        pynvml.nvmlInit()
        by = pynvml.nvmlDeviceGetHandleByIndex if isinstance(card, int) else pynvml.nvmlDeviceGetHandleByUUID
        return int(pynvml.nvmlDeviceGetMemoryInfo(by(card)).free)
    except pynvml.NVMLError as error:
        raise NotReady(f"cannot read the memory of card {card} (VQA_CARDS; use cpu for none): {error}") from None


def _too_large(plan: SlotPlan, settings: EngineSettings) -> str:
    weights = _gib(plan.weights_bytes) + (f" ({settings.replicas} replicas)" if settings.replicas > 1 else "")
    fewer = " or fewer replicas (VQA_REPLICAS)" if settings.replicas > 1 else ""
    smaller = ", quantize it (VQA_QUANT)" if settings.quant == "none" else ""
    spread = ", spread it over several cards (VQA_CARDS=0+1)" if plan.cards and settings.replicas == 1 else ""
    return (
        f"{settings.model} does not fit {_place(plan.cards)}: its weights take {weights}, one slot of "
        f"{settings.planned_tokens} tokens {_gib(plan.kv_slot_bytes)}, activations {_gib(plan.reserve_bytes)}, and "
        f"{_gib(plan.free_bytes or 0)} is free; use a smaller model (VQA_MODEL){fewer}{smaller}{spread}, or smaller "
        "slots (VQA_SLOT_TOKENS)"
    )


def _smaller_slots(settings: EngineSettings, slots: int, max_slots: int) -> str:
    # the continuous engine plans for a usual prompt, whatever a slot can hold
    if settings.engine == "continuous":
        return ""
    return f", or {slots} of {settings.slot_tokens * max_slots // slots} tokens (VQA_SLOT_TOKENS)"


def _number(text: str) -> int:
    if not 1 <= int(text) <= 1024:
        raise SettingsError("VQA_SLOTS: a card can have 1 to 1024 slots")
    return int(text)


def _cards(text: str) -> Cards:
    return tuple(int(card) for card in text.split("+"))


def _place(cards: Sequence[int | str]) -> str:
    return f"card{'s' * (len(cards) > 1)} {'+'.join(map(str, cards))}" if cards else "the CPU"


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
