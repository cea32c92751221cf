"""Which cards there are, by NVML, and which worker owns which: CUDA is never opened here, so a supervisor can ask."""

from __future__ import annotations

import os
import re
from collections import Counter

from vqa.errors import SettingsError

#: the cards of one worker, by number as nvidia-smi has them: several where its model is spread over them, none on the
#: CPU
Cards = tuple[int, ...]


def parse_cards(text: str) -> list[Cards]:
    """`0,1` for a worker each, `0+1` for one worker of two cards, `cpu`; nothing for ''. Raises SettingsError."""
    if text in {"", "cpu"}:
        return [()] if text else []
    parts = text.split(",")
    if not all(re.fullmatch(r"\d+(\+\d+)*", part, re.ASCII) for part in parts):
        raise SettingsError(
            "VQA_CARDS: cards are numbers such as 0,1 (a worker each) or 0+1 (one worker of two), or cpu alone"
        )
    workers = [tuple(int(card) for card in part.split("+")) for part in parts]
    card, times = Counter(card for cards in workers for card in cards).most_common(1)[0]
    if times > 1:
        raise SettingsError(f"VQA_CARDS: card {card} is named twice; one worker owns it")
    return workers


def wanted_cards(text: str) -> list[Cards]:
    """The workers' cards that the setting names; where it is empty, a worker for each card there is.

    Raises SettingsError.
    """
    wanted = parse_cards(text)
    if wanted == [()]:
        return wanted
    present = present_cards()
    if not wanted:
        return [(card,) for card in present] or [()]
    missing = [card for cards in wanted for card in cards if card not in present]
    if missing:
        there = f"there are {present}" if present else "NVML finds none; cpu runs without"
        raise SettingsError(f"VQA_CARDS: no card {missing[0]} here: {there}")
    return wanted


def present_cards() -> list[int]:
    """The numbers of the cards as nvidia-smi has them, less those that CUDA_VISIBLE_DEVICES hides.

    Raises SettingsError where it names them by UUID.
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


def capability(cards: Cards) -> tuple[int, int] | None:
    """The compute capability of the weakest of them; None on the CPU, or where NVML does not tell."""
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
    """As VQA_CARDS has them: `0`, `0+1` or `cpu`."""
    return "+".join(map(str, cards)) or "cpu"


def pinned(cards: Cards) -> dict[str, str]:
    """The environment in which a process sees these cards alone, or none."""
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, cards)), "VQA_CARDS": label(cards)}
    return seen | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if cards else seen
