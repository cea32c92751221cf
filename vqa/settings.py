"""Settings from the environment: the one table of `VQA_` names, and what producers and workers both need.

A value that does not fit, or a `VQA_` name that is not in the table, raises SettingsError naming the variable: a typing
error never turns into a default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from vqa.address import Address
from vqa.errors import SettingsError
from vqa.job import LONGEST_TIMEOUT_S, Job, Lane, RetryPolicy


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept: open jobs a lane, and dead letters by number and time; and bulk jobs of a tenant in flight."""

    open_jobs: int = 1_000_000
    dead: int = 10_000
    dead_s: float = 7 * 86_400
    #: None for any number
    tenant: int | None = None

    @property
    def unbounded(self) -> Limits:
        """For a job whose message is there already: to refuse it would lose it."""
        # as large as Lua counts exactly
        return replace(self, open_jobs=2**53)


PREFIX = "VQA_"


@dataclass(frozen=True)
class Name:
    """A variable's meaning, and what it stands at when it is not set ('' is unset)."""

    default: str
    meaning: str


#: every name, whoever reads it; the README's table is checked against this one
NAMES: Mapping[str, Name] = {
    "VQA_REDIS_URL": Name(
        "redis://127.0.0.1:6379/0",
        "the Redis (7.0 or later) that holds queue, ledger, images and outcomes; rediss:// for TLS, "
        "sentinel://host;host2/0?master=NAME for Sentinel",
    ),
    "VQA_REDIS_TIMEOUT_S": Name("30", "how long a call to Redis may take before it counts as failed"),
    "VQA_RESULT_TTL_S": Name("86400", "how long an outcome is kept for reading"),
    "VQA_INTERACTIVE_TIMEOUT_S": Name("60", "timeout of an interactive job that names none"),
    "VQA_BULK_TIMEOUT_S": Name("86400", "timeout of a bulk job that names none"),
    "VQA_INTERACTIVE_RETRY": Name(
        '{"attempts":3,"base_s":1.0,"cap_s":60.0}',
        'retry policy of an interactive job that names none, as JSON: {"attempts": 3}',
    ),
    "VQA_BULK_RETRY": Name('{"attempts":5,"base_s":2.0,"cap_s":300.0}', "the same for a bulk job"),
    "VQA_IMAGE_MAX_BYTES": Name("20971520", "an image with more bytes is refused"),
    "VQA_IMAGE_MAX_PIXELS": Name("50000000", "an image with more pixels is refused"),
    "VQA_LEASE_S": Name("9", "a worker that has not renewed for so long has lost its jobs; renewed every third of it"),
    "VQA_QUEUE_MOST": Name("1000000", "open jobs of a lane; more are refused with QueueFull"),
    "VQA_QUEUE_MEMORY": Name("0.8", "share of Redis's maxmemory, where it has one; over it jobs are refused, too"),
    "VQA_TENANT_MOST": Name(
        "",
        "bulk jobs of one tenant that are queued, delayed or running at once; more wait for their turn. Jobs that name "
        "no tenant count as one's. Any number where unset",
    ),
    "VQA_BATCH_TTL_S": Name("604800", "how long a batch's counts and rows are kept after it ended"),
    "VQA_DEAD_MOST": Name("10000", "dead letters that are kept; the oldest go first"),
    "VQA_DEAD_TTL_S": Name("604800", "how long a dead letter and its images are kept"),
    "VQA_FLOWER_USER": Name("vqa", "user of Flower's pages"),
    "VQA_FLOWER_PASSWORD": Name("", "password of Flower's pages; drawn at random by the demo when unset"),
    "VQA_FLOWER_ADDRESS": Name("127.0.0.1", "address that Flower listens on; /metrics there asks for no password"),
    "VQA_FLOWER_PORT": Name("5555", "port that Flower listens on"),
    "VQA_ENGINE": Name(
        "auto",
        "auto (continuous where the model's architecture is supported, else pipeline), continuous (Qwen3-VL, dense and "
        "of experts), pipeline (any image-text-to-text model) or echo (no model: for tests and queue load)",
    ),
    "VQA_MODEL": Name("Qwen/Qwen3-VL-30B-A3B-Instruct", "model by hub name or local folder"),
    "VQA_REVISION": Name("", "the model's commit or tag on the hub"),
    "VQA_CARDS": Name(
        "", "cards to use, a worker each: 0,1; 0+1 spreads one model over both; all where unset; cpu for none"
    ),
    "VQA_SLOTS": Name("", "concurrent jobs a worker: 16, or by card 0=16,1=8; from free memory where unset"),
    "VQA_RESERVED_SLOTS": Name(
        "",
        "slots that bulk jobs leave free for interactive ones; where unset 1 of 4 slots, 2 of 16, one in sixteen of "
        "more, and none while no interactive job has come for ten minutes",
    ),
    "VQA_SLOT_TOKENS": Name(
        "4096",
        "tokens of prompt and answer together that a slot holds at most; 16384 in the continuous engine, where a "
        "prompt takes no more than it needs",
    ),
    "VQA_PREFILL_TOKENS": Name(
        "8192",
        "continuous engine: tokens of prompts computed between two steps at most: what those who decode may have to "
        "wait for",
    ),
    "VQA_VISION_REUSE_MIB": Name(
        "512", "continuous engine: card memory for features of images that may be asked about again; 0 for none"
    ),
    "VQA_REPLICAS": Name("1", "loaded pipelines on a card, for models small enough"),
    "VQA_MICROBATCH": Name("", "most prompts that a pipeline runs together; half the slots where unset"),
    "VQA_MICROBATCH_WAIT_MS": Name("5", "how long a microbatch that is not full waits for another prompt"),
    "VQA_DTYPE": Name("auto", "auto, float32, float16 or bfloat16"),
    "VQA_QUANT": Name(
        "none",
        "what the language model's matrices are stored as, for smaller cards: none, fp8, int8 or int4; "
        "needs `pip install 'vqa-queue[quant]'`",
    ),
    "VQA_MAX_IMAGE_TOKENS": Name("1024", "an image is scaled down to at most so many tokens of 32 x 32 pixels"),
    "VQA_TRUST_REMOTE_CODE": Name("0", "run code that comes with the model; off unless set"),
    "VQA_MEDIA_PROCESSES": Name("", "processes that decode images; half the cores, from 2 to 8, where unset"),
    "VQA_REUSE_TTL_S": Name(
        "86400", "how long an answer may be given again to a job that allows it (`reuse`); 0 gives none again"
    ),
    "VQA_READY_TIMEOUT_S": Name("1800", "a worker that is not ready after so long is given up"),
    "VQA_HANG_S": Name(
        "60", "a worker whose engine gives no sign of life for so long is ended; five times as long in prefill"
    ),
    "VQA_RESTARTS": Name("10", "a card whose worker died so often in a row, with nothing answered, is given up"),
    "VQA_DRAIN_S": Name("60", "how long a stopping worker finishes what it holds before it gives the rest back"),
    "VQA_LOG_LEVEL": Name("INFO", "DEBUG, INFO, WARNING or ERROR"),
    "VQA_ECHO_DELAY_S": Name("0", "how long the echo engine takes for an answer"),
    "VQA_ECHO_LOAD_S": Name("0", "how long the echo engine takes to be ready"),
    "VQA_ECHO_JOURNAL": Name(
        "", "file to which the echo engine appends a line of JSON when a prompt enters and leaves its slot: for tests"
    ),
}


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for the first `VQA_` name that is not in the table, with the nearest one that is."""
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in NAMES:
            near = difflib.get_close_matches(name.upper(), NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `vqa settings` lists the names"
            raise SettingsError(f"{name} is not a setting of vqa{hint}")


class Settings(BaseSettings):
    """Read from `VQA_` variables, or given by field name; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    def __init__(self, **values: Any) -> None:
        refuse_unknown(os.environ)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None
        except UnreadableSetting as error:
            field = str(error).split('"')[1]
            raise SettingsError(f"{PREFIX}{field.upper()}: not valid JSON") from None


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{PREFIX}{'.'.join(map(str, entry['loc'])).upper()}: {entry['msg'].removeprefix('Value error, ')}"
        for entry in error.errors(include_input=False, include_url=False, include_context=False)
    )


class QueueSettings(Settings):
    """What producers and workers must agree on."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    redis_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    result_ttl_s: int = Field(default=86_400, ge=1, le=366 * 86_400)
    interactive_timeout_s: float = Field(default=60.0, gt=0, le=LONGEST_TIMEOUT_S)
    bulk_timeout_s: float = Field(default=86_400.0, gt=0, le=LONGEST_TIMEOUT_S)
    interactive_retry: RetryPolicy = RetryPolicy(attempts=3, base_s=1, cap_s=60)
    bulk_retry: RetryPolicy = RetryPolicy(attempts=5, base_s=2, cap_s=300)
    image_max_bytes: int = Field(default=20 * 2**20, ge=1)
    #: Pillow itself refuses more than the upper limit
    image_max_pixels: int = Field(default=50_000_000, ge=1, le=178_956_970)
    lease_s: float = Field(default=9.0, ge=0.3, le=3600)
    queue_most: int = Field(default=1_000_000, ge=1)
    queue_memory: float = Field(default=0.8, gt=0, le=1)
    #: None for any number
    tenant_most: int | None = Field(default=None, ge=1)
    batch_ttl_s: int = Field(default=604_800, ge=1, le=366 * 86_400)
    dead_most: int = Field(default=10_000, ge=1)
    dead_ttl_s: int = Field(default=604_800, ge=1, le=366 * 86_400)
    flower_user: str = "vqa"
    flower_password: str | None = Field(default=None, min_length=8)
    flower_address: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65_535)

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        Address.parse(url)
        return url

    @property
    def address(self) -> Address:
        """What `redis_url` says."""
        return Address.parse(self.redis_url)

    @property
    def limits(self) -> Limits:
        """What the ledger keeps at most."""
        return Limits(self.queue_most, self.dead_most, self.dead_ttl_s, self.tenant_most)

    def resolved(self, job: Job) -> Job:
        """The job with its lane's defaults written into it, so that it means the same to every reader."""
        return job.model_copy(
            update={
                "timeout_s": job.timeout_s or self.timeout_s(job.lane),
                "retry": job.retry or self.retry(job.lane),
            }
        )

    def timeout_s(self, lane: Lane) -> float:
        """Seconds that a job on `lane` has when it names none."""
        return self.interactive_timeout_s if lane == "interactive" else self.bulk_timeout_s

    def retry(self, lane: Lane) -> RetryPolicy:
        """The retry policy of a job on `lane` that names none."""
        return self.interactive_retry if lane == "interactive" else self.bulk_retry
