"""Which cards there are, by NVML: CUDA is never opened here, so a supervisor can ask."""

from __future__ import annotations

import os

from vqa.errors import SettingsError


def wanted_cards(cards: str) -> list[int | None]:
    """The cards that the setting names; all there are where it is empty; [None] is the CPU. Raises SettingsError."""
    if cards == "cpu":
        return [None]
    present = present_cards()
    if not cards:
        return list(present) or [None]
    wanted = [int(card) for card in cards.split(",")]
    missing = [card for card in wanted if card not in present]
    if missing:
        there = f"there are {present}" if present else "NVML finds none; cpu runs without"
        raise SettingsError(f"VQA_CARDS: no card {missing[0]} here: {there}")
    return list(wanted)


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


def pinned(card: int | None) -> dict[str, str]:
    """The environment in which a process sees this card alone, or none."""
    if card is None:
        return {"CUDA_VISIBLE_DEVICES": "", "VQA_CARDS": "cpu"}
    return {"CUDA_VISIBLE_DEVICES": str(card), "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "VQA_CARDS": str(card)}
