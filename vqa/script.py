"""The script of the ledger's and the batches' verbs, as one text: `verbs[ARGV[1]]`, with the other arguments."""

from __future__ import annotations

from importlib.resources import files

_PARTS = ("records", "fair_share", "batches", "ledger", "sweep")
SCRIPT = "\n".join(
    [
        *(files("vqa.ledger").joinpath("lua", f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS),
        "return verbs[ARGV[1]](unpack(ARGV, 2))",
    ]
)
