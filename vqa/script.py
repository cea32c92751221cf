"""The script of the ledger's and the batches' verbs, as one text: `verbs[ARGV[1]]`, with the other arguments."""

from __future__ import annotations

from importlib.resources import files

_PARTS = ("entry", "turns", "batches", "ledger", "sweep")
SCRIPT = "\n".join(
    [
        *(files("vqa").joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS),
        "return verbs[ARGV[1]](unpack(ARGV, 2))",
    ]
)
