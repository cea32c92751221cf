"""Every metric that vqa shows to Prometheus; docs/metrics.md has the same table. Imports no package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

#: every label, and what bounds the number of its values. Never a tenant, an id or what a user's job names: each value
#: is a time series that Prometheus keeps
LABELS: Mapping[str, str] = {
    "lane": "the two lanes",
    "state": "the states of an open job, or of a worker",
    "outcome": "answered, failed, retried, dead_letter, cancelled, returned",
    "model": "served models, the first 50 by name; `(other)` for all others; empty for jobs that name none",
    "code": "the classes of vqa/errors.py; for dead letters also worker_lost, malformed, damaged and the like",
    "category": "the operator's word lists, the 50 most frequent",
    "card": "nvidia-smi's numbers of this worker's cards",
    "version": "one, the installed version",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. Its name is the one in queries; a histogram's has `_bucket`, `_sum` and `_count` behind it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


BUILD = Metric("vqa_build_info", "gauge", "1, with the installed version", ("version",))

_LANE = ("lane",)

ATTEMPTS = Metric(
    "vqa_attempts_total",
    "counter",
    "attempts that ended; code is the error's, also if the job is given up by it, and empty for an answer. "
    "returned: the worker stops, or Redis was away",
    ("lane", "outcome", "code"),
)
REUSED = Metric("vqa_reused_answers_total", "counter", "answers that came from the answer cache", _LANE)
REDELIVERED = Metric(
    "vqa_redelivered_attempts_total", "counter", "attempts at jobs that had lost a worker before", _LANE
)
LOST_LEASES = Metric(
    "vqa_lost_leases_total",
    "counter",
    "jobs that were closed elsewhere (cancelled, overdue) or taken by another worker",
)
RENEWALS = Metric("vqa_lease_renewals_total", "counter", "renewals of all leases together, each a call to Redis")
QUEUED_S = Metric(
    "vqa_job_queued_seconds",
    "histogram",
    "answered jobs: from acceptance until the attempt, earlier ones included",
    _LANE,
)
MEDIA_S = Metric("vqa_job_media_seconds", "histogram", "answered jobs: to fetch and decode the images", _LANE)
ENGINE_S = Metric(
    "vqa_job_engine_seconds", "histogram", "answered jobs: in the engine, waiting for a slot included", _LANE
)
SLOT_WAIT_S = Metric(
    "vqa_job_slot_wait_seconds",
    "histogram",
    "answered jobs of engines that tell: in the engine, until the prompt got a slot",
    _LANE,
)
PREFILL_S = Metric(
    "vqa_job_prefill_seconds",
    "histogram",
    "answered jobs of engines that tell: from the slot to the first token",
    _LANE,
)
DECODE_S = Metric(
    "vqa_job_decode_seconds",
    "histogram",
    "answered jobs of engines that tell: from the first token to the last",
    _LANE,
)
TOTAL_S = Metric("vqa_job_total_seconds", "histogram", "answered jobs: from acceptance to the answer", _LANE)
FIRST_TEXT_S = Metric(
    "vqa_job_first_text_seconds", "histogram", "streamed jobs: from acceptance to the first text for the client", _LANE
)
PROMPT_TOKENS = Metric("vqa_prompt_tokens_total", "counter", "of answered jobs' prompts, cached ones included", _LANE)
CACHED_TOKENS = Metric(
    "vqa_cached_tokens_total", "counter", "of answered jobs' prompts, found in the prefix cache", _LANE
)
ANSWER_TOKENS = Metric("vqa_answer_tokens_total", "counter", "of answers, thoughts included", _LANE)
FILTERED = Metric(
    "vqa_filtered_total",
    "counter",
    "answers and refused questions with words of a category of the word filter",
    ("category",),
)
SLOTS = Metric("vqa_slots", "gauge", "slots of the worker")
SLOTS_USED = Metric("vqa_slots_used", "gauge", "slots with a job that the engine answers")
JOBS_HELD = Metric("vqa_jobs_held", "gauge", "jobs that the worker has leased, those included whose images it decodes")
HELD_OLDEST_S = Metric(
    "vqa_jobs_held_oldest_seconds",
    "gauge",
    "since the acceptance of the oldest job that the worker has leased; 0 if there is none",
    _LANE,
)
DECODERS = Metric("vqa_decoders", "gauge", "processes that decode images")
DECODERS_USED = Metric("vqa_decoders_used", "gauge", "processes that decode an image now")

#: read from the engine at scrape time, by the field of `workers.engine.stats.Stats`
ENGINE: Mapping[str, Metric] = {
    "passes": Metric("vqa_engine_passes_total", "counter", "forward passes"),
    "pass_s": Metric(
        "vqa_engine_pass_seconds_total", "counter", "in forward passes; its rate is the card's busy share"
    ),
    "steps": Metric("vqa_engine_steps_total", "counter", "passes without parts of prompts"),
    "step_s": Metric("vqa_engine_step_seconds_total", "counter", "in passes without parts of prompts"),
    "step_tokens": Metric(
        "vqa_engine_step_tokens_total", "counter", "of those passes; by pass and slot, the batch's fill"
    ),
    "prompt_tokens": Metric("vqa_engine_prompt_tokens_total", "counter", "of prompts, computed"),
    "cached_tokens": Metric("vqa_engine_cached_tokens_total", "counter", "of prompts, found in the prefix cache"),
    "answer_tokens": Metric(
        "vqa_engine_answer_tokens_total", "counter", "of answers, computed, discarded ones included"
    ),
    "blocks": Metric("vqa_kv_blocks", "gauge", "blocks of the KV cache"),
    "blocks_used": Metric("vqa_kv_blocks_used", "gauge", "blocks of sequences in slots"),
}

_CARD = ("card",)
GPU_BUSY = Metric("vqa_gpu_utilization_ratio", "gauge", "NVML: share of the last moments in which a kernel ran", _CARD)
GPU_MEMORY = Metric("vqa_gpu_memory_bytes", "gauge", "NVML: memory of the card", _CARD)
GPU_MEMORY_USED = Metric("vqa_gpu_memory_used_bytes", "gauge", "NVML: memory in use, by all processes", _CARD)
GPU_POWER = Metric("vqa_gpu_power_watts", "gauge", "NVML: power that the card draws", _CARD)
GPU_TEMPERATURE = Metric("vqa_gpu_temperature_celsius", "gauge", "NVML: temperature of the card", _CARD)

#: of a worker, at VQA_METRICS_ADDRESS
WORKER: tuple[Metric, ...] = (
    *(BUILD, ATTEMPTS, REUSED, REDELIVERED, LOST_LEASES, RENEWALS),
    *(QUEUED_S, MEDIA_S, ENGINE_S, SLOT_WAIT_S, PREFILL_S, DECODE_S, TOTAL_S, FIRST_TEXT_S),
    *(PROMPT_TOKENS, CACHED_TOKENS, ANSWER_TOKENS, FILTERED),
    *(SLOTS, SLOTS_USED, JOBS_HELD, HELD_OLDEST_S, DECODERS, DECODERS_USED),
    *ENGINE.values(),
    *(GPU_BUSY, GPU_MEMORY, GPU_MEMORY_USED, GPU_POWER, GPU_TEMPERATURE),
)

UP = Metric("vqa_up", "gauge", "1 if Redis answers; 0 if not, and then there are no other figures of the queue")
_QUEUE = ("lane", "model", "state")
QUEUE_JOBS = Metric("vqa_queue_jobs", "gauge", "open jobs", _QUEUE)
QUEUE_OLDEST_S = Metric(
    "vqa_queue_oldest_seconds",
    "gauge",
    "since when the oldest job waits for its turn (waiting) or a worker (queued); a retry begins anew. 0 if none does",
    _QUEUE,
)
QUEUE_OVERDUE_S = Metric(
    "vqa_queue_overdue_seconds",
    "gauge",
    "since when the oldest lease (leased) or delay (delayed) is over; above 10, no janitor runs. 0 if none is",
    _QUEUE,
)
DEAD_LETTERS = Metric("vqa_dead_letters", "gauge", "dead letters that are kept")
DEAD_NEWEST = Metric(
    "vqa_dead_letters_newest",
    "gauge",
    "of the newest 100 dead letters: those with this code of the last error",
    ("code",),
)
INBOX = Metric("vqa_inbox_entries", "gauge", "jobs in the inbox stream that are not accepted yet")
WORKERS = Metric(
    "vqa_workers", "gauge", "listed workers; ready: renewed within the lease time, else vanished", ("state",)
)
QUEUE_SLOTS = Metric("vqa_queue_slots", "gauge", "slots of all ready workers together")
REDIS_MEMORY = Metric("vqa_redis_memory_bytes", "gauge", "memory that Redis uses")
REDIS_MEMORY_LIMIT = Metric("vqa_redis_memory_limit_bytes", "gauge", "Redis's maxmemory; 0 for none")

#: of the queue, from `vqa metrics` or the gateway
QUEUE: tuple[Metric, ...] = (
    *(BUILD, UP, QUEUE_JOBS, QUEUE_OLDEST_S, QUEUE_OVERDUE_S, DEAD_LETTERS, DEAD_NEWEST, INBOX, WORKERS, QUEUE_SLOTS),
    *(REDIS_MEMORY, REDIS_MEMORY_LIMIT),
)
