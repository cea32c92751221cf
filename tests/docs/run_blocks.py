"""`python -m tests.docs.run_blocks DOCUMENT GATEWAY_URL`: runs a document's Python, in a process that it may change.

The document's blocks follow one another. VQA_REDIS_URL names the queue.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from producer import Client, Job
from tests.docs.blocks import ROOT, read

#: names that a document's text introduces before its code uses them
GIVEN = {"images.md": {"Job": Job, "page": (ROOT / "examples" / "images" / "shape-07.png").read_bytes()}}


def main(document: Path, gateway_url: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__", "Client": Client, **GIVEN.get(document.name, {})}
    for block in read(document):
        if block.language == "python" and block.not_run is None:
            text = block.text.replace("redis://127.0.0.1:6379/0", os.environ["VQA_REDIS_URL"])
            text = text.replace("http://127.0.0.1:8000", gateway_url)
            code = compile("\n" * (block.line - 1) + text, str(document), "exec")
            with Client() as names["client"]:
                exec(code, names)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
