"""`make fuzz`: many requests, other ones each time; arguments are those of `schemathesis run`."""

import sys
import tempfile
from pathlib import Path

from tests.producer.gateway.openapi.fuzz import fuzz

with tempfile.TemporaryDirectory() as folder:
    fuzzed = fuzz(Path(folder), "--max-examples", "300", *sys.argv[1:])
print(fuzzed.output)
if not fuzzed.is_fine:
    print(*(line for line in fuzzed.gateway_log.splitlines() if " INFO " not in line), sep="\n")
sys.exit(not fuzzed.is_fine)
