"""The machine's cards, from NVML, and which worker owns which. Never opens CUDA, so the supervisor can use it."""

from __future__ import annotations

import os
import re
from collections import Counter

from vqa.errors import SettingsError

#: one worker's cards, by nvidia-smi's numbers: several if its model is spread over them, none on the CPU
Cards = tuple[int, ...]


def parse_cards(text: str) -> list[Cards]:
    """Parse VQA_CARDS: `0,1` is two workers, `0+1` one worker on two cards, and '' gives []. Raises SettingsError."""
    if text in {"", "cpu"}:
        return [()] if text else []
    parts = text.split(",")
    if not all(re.fullmatch(r"\d+(\+\d+)*", part, re.ASCII) for part in parts):
        raise SettingsError(
            "VQA_CARDS: give card numbers, as 0,1 (a worker each) or 0+1 (one worker on both), or cpu alone"
        )
    workers = [tuple(int(card) for card in part.split("+")) for part in parts]
    card, times = Counter(card for cards in workers for card in cards).most_common(1)[0]
    if times > 1:
        raise SettingsError(f"VQA_CARDS: card {card} is named twice; only one worker can own it")
    return workers


def requested_cards(text: str) -> list[Cards]:
    """Return the cards of each worker that VQA_CARDS names; if it is empty, one worker for each card of the machine.

    Raises SettingsError.
    """
    requested = parse_cards(text)
    if requested == [()]:
        return requested
    present = present_cards()
    if not requested:
        return [(card,) for card in present] or [()]
    missing = [card for cards in requested for card in cards if card not in present]
    if missing:
        hint = f"this machine has {present}" if present else "NVML finds none; use cpu to run without"
        raise SettingsError(f"VQA_CARDS: there is no card {missing[0]}: {hint}")
    return requested


def present_cards() -> list[int]:
    """Return nvidia-smi's numbers of the cards, without those that CUDA_VISIBLE_DEVICES hides.

    Raises SettingsError if that variable names cards by UUID.
    """
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(range(count))
    shown = [card.strip() for card in visible.split(",") if card.strip()]
    if not all(card.isdecimal() for card in shown):
        raise SettingsError(f"CUDA_VISIBLE_DEVICES={visible}: name cards by number, as nvidia-smi does, or unset it")
    return [int(card) for card in shown if int(card) < count]


def compute_capability(cards: Cards) -> tuple[int, int] | None:
    """Return the lowest compute capability among the cards; None on the CPU or without NVML."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(card) for card in cards]
        return min((tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles), default=None)
    except pynvml.NVMLError:
        return None


def label(cards: Cards) -> str:
    """Write one worker's cards as VQA_CARDS does: `0`, `0+1` or `cpu`."""
    return "+".join(map(str, cards)) or "cpu"


def card_environment(cards: Cards) -> dict[str, str]:
    """Return the variables with which a process sees only these cards."""
    variables = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, cards)), "VQA_CARDS": label(cards)}
    return variables | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if cards else variables
