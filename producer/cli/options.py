"""Options shared by several commands of `vqa`."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from producer.images.shrink import Shrink

#: inherited by every command of an app
CONTEXT = {"help_option_names": ["-h", "--help"]}


class LaneName(StrEnum):
    interactive = "interactive"
    bulk = "bulk"


class DetailName(StrEnum):
    low = "low"
    auto = "auto"
    high = "high"


def _set_redis_url(url: str | None) -> None:
    if url is not None:
        os.environ["VQA_REDIS_URL"] = url


RedisUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Redis with the queue, instead of VQA_REDIS_URL.", callback=_set_redis_url),
]
Lane = Annotated[LaneName, typer.Option(help="Interactive jobs are answered before bulk jobs.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Model that answers; see `vqa models`.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Maximum length of the answer in tokens.")]
MaxReasoningTokens = Annotated[
    int | None, typer.Option(min=0, help="Maximum length of a thought before the answer, in tokens, not counted in it.")
]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="0 gives the same answer every time.")]
TopP = Annotated[
    float | None, typer.Option(min=0.001, max=1, help="Sample from the likeliest tokens only; needs --temperature.")
]
TopK = Annotated[
    int | None, typer.Option(min=0, help="Sample from this many likeliest tokens; needs --temperature. 0: all.")
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Sample from tokens with this share of the likeliest's probability; needs --temperature."
    ),
]
PresencePenalty = Annotated[
    float | None, typer.Option(min=-2, max=2, help="Subtracted from the logits of tokens that the answer has.")
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(min=-2, max=2, help="The same, for each time that the answer has the token.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(min=0.1, max=10, help="Over 1, tokens of prompt and answer become less likely.")
]
Logprobs = Annotated[bool, typer.Option("--logprobs", help="Tell the log probability of each of the answer's tokens.")]
TopLogprobs = Annotated[
    int | None, typer.Option(min=0, max=20, help="With --logprobs: tell so many of the likeliest tokens, too.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Makes sampling repeatable; needs --temperature.")]
Schema = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="JSON schema that the answer must satisfy.")
]
Choice = Annotated[list[str] | None, typer.Option(help="Allowed answer; repeatable, and not together with --schema.")]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="With --choice: compute the probability of each; slower.")
]
Detail = Annotated[DetailName | None, typer.Option(help="How large images are seen; auto by default.")]
MaxImageTokens = Annotated[
    int | None, typer.Option(min=4, help="Most tokens per image; the worker's setting by default.")
]
ShrinkImages = Annotated[bool, typer.Option("--shrink-images", help="Show images smaller if they would not fit.")]
Shrinks = Annotated[bool, typer.Option("--shrink", help="Scale images to what the model sees before they are stored.")]
ShrinkTokens = Annotated[
    int | None, typer.Option(min=4, max=16_384, help="With --shrink: tokens per image, if workers cannot be asked.")
]
ShrinkQuality = Annotated[
    int | None, typer.Option(min=1, max=100, help="With --shrink: store JPEG of this quality; lossless by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="File for the answers; stdout by default.")
]


def shrink_option(shrinks: bool, tokens: int | None, quality: int | None) -> Shrink | None:
    """Return how images are shrunk, if they are. Raises typer.BadParameter."""
    if not shrinks:
        if tokens or quality:
            raise typer.BadParameter("needs --shrink", param_hint="--shrink-tokens" if tokens else "--shrink-quality")
        return None
    from producer.images.shrink import Shrink

    return Shrink(tokens, quality)


def response_format(
    schema: Path | None, choices: list[str] | None, probabilities: bool = False
) -> dict[str, object] | None:
    """Build a job's `response_format`. Raises typer.BadParameter."""
    if probabilities and not choices:
        raise typer.BadParameter("needs --choice", param_hint="--probabilities")
    if schema and choices:
        raise typer.BadParameter("cannot be combined with --choice", param_hint="--schema")
    if choices:
        return {"type": "choice", "choices": choices, **({"probabilities": True} if probabilities else {})}
    if schema is None:
        return None
    try:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema.read_bytes())}}
    except ValueError:
        raise typer.BadParameter(f"{schema} is not JSON", param_hint="--schema") from None


def job_fields(lane: LaneName, **fields: Any) -> dict[str, Any]:
    """Return the fields of a job whose options were given."""
    return {"lane": lane.value, **{name: value for name, value in fields.items() if value is not None}}
