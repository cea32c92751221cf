"""Settings read from `VQA_` environment variables; here those that producers and workers share, and Flower's.

A value that does not fit, or a `VQA_` variable that no settings class reads, raises SettingsError naming the variable,
so a typing error never silently becomes a default. docs/settings.md lists all settings (`workers.settings_table`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from vqa.address import Address
from vqa.errors import SettingsError
from vqa.images.limits import FileLimits
from vqa.images.stores.url import check_url
from vqa.jobs.job import LONGEST_TIMEOUT_S, Job
from vqa.jobs.lane import Lane
from vqa.jobs.retry_policy import RetryPolicy

PREFIX = "VQA_"

#: likeness of two names, from 0 to 1, from which one is taken for the other's misspelling
_NEAR = 0.75

#: variables that classes elsewhere read: of workers, which a producer cannot import, and of `vqa.gateway_settings` and
#: `vqa.flower_settings`
_OTHER_NAMES = """
    VQA_CARDS VQA_DRAIN_S VQA_LOG_LEVEL VQA_MEDIA_PROCESSES VQA_MESSAGE_MAX_BYTES VQA_READY_TIMEOUT_S VQA_RESTARTS
    VQA_LOG_FORMAT VQA_METRICS_ADDRESS VQA_REUSE_TTL_S VQA_ROLLOUT_MODELS VQA_SERVED_NAME VQA_SLOTS
    VQA_UNNAMED_JOBS
    VQA_DTYPE VQA_ENGINE VQA_HANG_S VQA_HIGH_IMAGE_TOKENS VQA_MAX_IMAGE_TOKENS VQA_MAX_REASONING_TOKENS
    VQA_MICROBATCH VQA_MODEL VQA_PREFILL_TOKENS VQA_QUANT
    VQA_REPLICAS VQA_RESERVED_SLOTS VQA_REVISION VQA_SLOT_TOKENS VQA_TRUST_REMOTE_CODE
    VQA_CACHE_SALT VQA_HUB VQA_PREFIX_CACHE VQA_SAMPLING_DEFAULTS VQA_VISION_REUSE_MIB
    VQA_ECHO_DELAY_S VQA_ECHO_JOURNAL VQA_ECHO_LOAD_S VQA_REMOTE_KEY VQA_REMOTE_URLS
    VQA_FLOWER_ADDRESS VQA_FLOWER_PASSWORD VQA_FLOWER_PORT VQA_FLOWER_USER
    VQA_GATEWAY_ADDRESS VQA_GATEWAY_BODY_MAX_BYTES VQA_GATEWAY_CORS_ORIGINS VQA_GATEWAY_DRAIN_S VQA_GATEWAY_IMAGE_TTL_S
    VQA_GATEWAY_METRICS_KEY VQA_GATEWAY_OPEN VQA_GATEWAY_PORT VQA_GATEWAY_PROCESSES VQA_GATEWAY_TEST_MODELS
    VQA_GATEWAY_WEBHOOK_PRIVATE VQA_GATEWAY_WEBHOOK_SECRET
    VQA_FETCH_BUCKETS VQA_FETCH_FIRST_BYTE_S VQA_FETCH_HOSTS VQA_FETCH_PRIVATE VQA_FETCH_ROOTS VQA_FETCH_TIMEOUT_S
    VQA_FILTER_ACTIONS VQA_FILTER_LISTS VQA_FILTER_QUESTIONS VQA_LABEL
    VQA_FILES_MAX_BYTES VQA_FILES_TOTAL_BYTES VQA_FILES_TTL_S VQA_FILES_URL
"""


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for the first `VQA_` variable that is no setting, suggesting the nearest one."""
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in NAMES:
            # without the prefix, which would make any two names alike
            known = [each.removeprefix(PREFIX) for each in NAMES]
            near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1, cutoff=_NEAR)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; `vqa settings` lists the names"
            raise SettingsError(f"{name} is not a setting of vqa{hint}")


class Settings(BaseSettings):
    """Values from environment variables, or from keyword arguments, which win. Raises SettingsError."""

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
        prefix = self.model_config["env_prefix"]
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error, prefix)) from None
        except UnreadableSetting as error:
            field = str(error).split('"')[1]
            raise SettingsError(f"{prefix}{field.upper()}: not valid JSON") from None

    @classmethod
    def variables(cls) -> dict[str, FieldInfo]:
        """Return the fields by the environment variables that they are read from."""
        return {f"{cls.model_config['env_prefix']}{name.upper()}": field for name, field in cls.model_fields.items()}


def _explain(error: ValidationError, prefix: str) -> str:
    return "; ".join(
        f"{prefix}{'.'.join(map(str, entry['loc'])).upper()}: {entry['msg'].removeprefix('Value error, ')}"
        for entry in error.errors(include_input=False, include_url=False, include_context=False)
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the ledger keeps, and how safely."""

    #: open jobs per lane
    open_jobs: int = 1_000_000
    #: dead letters
    dead: int = 10_000
    #: seconds that a dead letter is kept
    dead_s: float = 7 * 86_400
    #: bulk jobs of one tenant in flight; None for no limit
    tenant: int | None = None
    #: replicas of Redis that have to confirm an accepted or closed job
    replicas: int = 0

    @property
    def unbounded(self) -> Limits:
        """These limits without one on open jobs: for a job whose message exists already, which a refusal would lose."""
        # the largest integer that Lua counts exactly
        return replace(self, open_jobs=2**53)


class QueueSettings(Settings):
    """Settings of the queue, which producers and workers must agree on."""

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="the Redis (7.0 or later) that holds queue, ledger, images and outcomes; rediss:// for TLS, "
        "sentinel://host;host2/0?master=NAME for Sentinel",
    )
    redis_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="seconds after which a call to Redis counts as failed"
    )
    result_ttl_s: int = Field(default=86_400, ge=1, le=366 * 86_400, description="seconds that an outcome is kept")
    interactive_timeout_s: float = Field(
        default=60.0, gt=0, le=LONGEST_TIMEOUT_S, description="timeout in seconds of an interactive job without its own"
    )
    bulk_timeout_s: float = Field(
        default=86_400.0, gt=0, le=LONGEST_TIMEOUT_S, description="timeout in seconds of a bulk job without its own"
    )
    interactive_retry: RetryPolicy = Field(
        default=RetryPolicy(attempts=3, base_s=1, cap_s=60),
        description='retry policy, in JSON, of an interactive job without its own; {"attempts": 3} is enough',
    )
    bulk_retry: RetryPolicy = Field(
        default=RetryPolicy(attempts=5, base_s=2, cap_s=300),
        description="retry policy, in JSON, of a bulk job without its own",
    )
    images_url: str | None = Field(
        default=None,
        description="where the bytes of jobs' images are kept: file:///FOLDER that producers and workers share, or "
        "s3://, gs:// or az:// (BUCKET/PREFIX; needs the extra fetch, credentials come from AWS_* and the like). "
        "Unset: in Redis",
    )
    images_keep_s: int = Field(
        default=3600,
        ge=60,
        le=366 * 86_400,
        description="seconds that a job's images are kept after its deadline, for a late attempt or a new question",
    )
    fetch: Literal["producer", "worker"] = Field(
        default="producer",
        description="who fetches images that are given by URL: the producer, before it submits a job, or the worker. "
        "Each by its own settings",
    )
    image_max_bytes: int = Field(default=20 * 2**20, ge=1, description="images with more bytes are refused")
    # Pillow itself refuses more pixels than the upper bound
    image_max_pixels: int = Field(
        default=50_000_000, ge=1, le=178_956_970, description="images with more pixels are refused"
    )
    # Qwen-VL's image processors refuse more than the upper bound
    image_max_aspect: int = Field(
        default=200, ge=1, le=200, description="images whose longer side is more times the shorter are refused"
    )
    image_max_pages: int = Field(
        default=16, ge=1, le=256, description="most pages of one TIFF or PDF file; each is an image"
    )
    image_max_count: int = Field(
        default=64,
        ge=1,
        le=256,
        description="most images of a job, each page of its files counted; not the frames of videos",
    )
    video_max_frames: int = Field(
        default=64,
        ge=1,
        le=256,
        description="most frames of a video: more that a job gives are refused, and so many are sampled of a file",
    )
    pdf: bool = Field(
        default=False,
        description="1 takes PDF files, whose pages become images; needs `pip install 'vqa-queue[pdf]'` for workers",
    )
    wait_replicas: int = Field(
        default=0,
        ge=0,
        le=100,
        description="replicas of Redis that have to confirm a job before it counts as accepted, so that it survives a "
        "failover, and an outcome before its worker goes on. Without their confirmation, a submission fails with "
        "QueueUnavailable after 4 s; an outcome stays",
    )
    lease_s: float = Field(
        default=9.0,
        ge=0.3,
        le=3600,
        description="seconds after which a worker that has not renewed its leases loses its jobs; it renews them every "
        "third of this",
    )
    model_keep_s: int = Field(
        default=3600,
        ge=60,
        le=366 * 86_400,
        description="seconds after which a model that no worker serves is unknown, so that jobs which name it are "
        "refused; until then they wait for a worker, which may be restarting",
    )
    queue_most: int = Field(
        default=1_000_000, ge=1, description="open jobs per lane; further jobs are refused with QueueFull"
    )
    tenant_most: int | None = Field(
        default=None,
        ge=1,
        description="bulk jobs of one tenant that may be queued, delayed or running at once; further ones wait for "
        "their turn. Jobs without a tenant count as one tenant's. Unset: no limit",
    )
    batch_ttl_s: int = Field(
        default=604_800,
        ge=1,
        le=366 * 86_400,
        description="seconds that a batch's counts and rows are kept after its end",
    )
    dead_most: int = Field(
        default=10_000, ge=1, description="dead letters that are kept; beyond this the oldest are dropped"
    )
    dead_ttl_s: int = Field(
        default=604_800, ge=1, le=366 * 86_400, description="seconds that a dead letter and its images are kept"
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        Address.parse(url)
        return url

    @field_validator("images_url")
    @classmethod
    def _can_keep_images(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url)
        return url

    @property
    def address(self) -> Address:
        return Address.parse(self.redis_url)

    @property
    def image_limits(self) -> FileLimits:
        """Which files of images are refused by their header."""
        return FileLimits(
            self.image_max_bytes, self.image_max_pixels, self.image_max_aspect, self.image_max_pages, self.pdf
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.queue_most, self.dead_most, self.dead_ttl_s, self.tenant_most, self.wait_replicas)

    def resolved(self, job: Job) -> Job:
        """Fill in the lane's default timeout and retry policy, so that every reader of the job sees the same."""
        return job.model_copy(
            update={
                "timeout_s": self.job_timeout_s(job),
                "retry": job.retry or self.retry(job.lane),
            }
        )

    def timeout_s(self, lane: Lane) -> float:
        """Return the timeout, in seconds, of a job on `lane` without its own."""
        return self.interactive_timeout_s if lane == "interactive" else self.bulk_timeout_s

    def job_timeout_s(self, job: Job) -> float:
        """Return the job's own timeout, or its lane's, in seconds."""
        return job.timeout_s or self.timeout_s(job.lane)

    def retry(self, lane: Lane) -> RetryPolicy:
        """Return the retry policy of a job on `lane` without its own."""
        return self.interactive_retry if lane == "interactive" else self.bulk_retry


#: every variable that is a setting
NAMES = frozenset([*QueueSettings.variables(), *_OTHER_NAMES.split()])
