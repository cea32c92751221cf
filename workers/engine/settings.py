"""Settings of an engine: the model, the number of prompts and their size. Knows nothing of processes or Redis."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from vqa.errors import SettingsError
from vqa.settings import Settings

Quant = Literal["none", "fp8", "int8", "int4"]

#: pixels per image token: 32 x 32 after merging patches (Qwen3-VL)
PIXELS_PER_TOKEN = 32 * 32

#: planned in a slot beside one image, for a question and an answer
TEXT_TOKENS = 512

#: default of VQA_MAX_REASONING_TOKENS
MAX_REASONING_TOKENS = 2048

#: default of VQA_HIGH_IMAGE_TOKENS
HIGH_IMAGE_TOKENS = 4096


class EngineSettings(Settings):
    engine: Literal["auto", "continuous", "pipeline", "remote", "echo"] = Field(
        default="auto",
        description="auto (continuous where it supports the model's architecture, else pipeline), continuous "
        "(Qwen3-VL, dense and mixture of experts), pipeline (any image-text-to-text model), remote (servers with "
        "OpenAI's API, see VQA_REMOTE_URLS) or echo (no model: for tests and load tests of the queue)",
    )
    model: str = Field(
        default="Qwen/Qwen3-VL-30B-A3B-Instruct",
        min_length=1,
        description="model: a name on a hub (VQA_HUB) or a local folder",
    )
    hub: Literal["huggingface", "modelscope"] = Field(
        default="huggingface",
        description="where a model's name is looked up: huggingface (HF_ENDPOINT names a mirror) or modelscope, which "
        "needs `pip install 'vqa-queue[modelscope]'`",
    )
    revision: str | None = Field(default=None, description="the model's commit or tag on the hub")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="data type of the weights: auto, float32, float16 or bfloat16"
    )
    quant: Quant = Field(
        default="none",
        description="quantization of the language model's weights, for smaller cards: none, fp8 (with its activations "
        "in the continuous engine), int8 or int4; the pipeline engine needs `pip install 'vqa-queue[quant]'`",
    )
    trust_remote_code: bool = Field(default=False, description="1 runs code that comes with the model")
    slot_tokens: int = Field(
        default=4096,
        ge=64,
        description="most tokens of prompt and answer together; the continuous engine's default is 16384, as a prompt "
        "takes only the memory that it needs there",
    )
    max_image_tokens: int = Field(
        default=1024,
        ge=4,
        description="images are scaled down to at most this many tokens, of 32 x 32 pixels each (Qwen3-VL), unless "
        "their job asks for `detail`",
    )
    high_image_tokens: int = Field(
        default=HIGH_IMAGE_TOKENS,
        ge=4,
        validate_default=True,
        description="images with `detail` `high` are scaled down to at most this many tokens, and a job's "
        "`max_image_tokens` may not exceed it; at least VQA_MAX_IMAGE_TOKENS",
    )
    max_reasoning_tokens: int = Field(
        default=MAX_REASONING_TOKENS,
        ge=0,
        le=32_768,
        description="models that think before they answer: most tokens of a thought, after which it is ended, unless "
        "the job has its own `max_reasoning_tokens`; less where a prompt leaves less room in its slot. Not counted in "
        "`max_new_tokens`",
    )
    prefill_tokens: int = Field(
        default=3072,
        ge=64,
        description="continuous engine: most tokens computed in one pass, one of each running answer and the rest of "
        "prompts, which bounds how long running answers are held up",
    )
    prefix_cache: bool = Field(
        default=True,
        description="continuous engine: prompts that begin alike, with the same system prompt or image, compute that "
        "beginning once, and later ones while memory allows; 0 disables it",
    )
    cache_salt: Literal["none", "tenant"] = Field(
        default="none",
        description="continuous engine: prompts of which jobs may begin with what another has computed: all (none), or "
        "those of one tenant, so that nobody can tell from an answer's time what others ask (tenant)",
    )
    vision_reuse_mib: int = Field(
        default=512,
        ge=0,
        description="continuous engine: MiB of card memory for features of images that may be asked about again; 0 "
        "disables it",
    )
    sampling_defaults: Literal["none", "checkpoint"] = Field(
        default="none",
        description="how tokens are chosen for jobs that do not say it: none (greedily) or checkpoint (temperature, "
        "top_p, top_k and min_p of the model's generation_config.json)",
    )
    replicas: int = Field(
        default=1, ge=1, le=64, description="pipeline engine: copies of the model on a card, for small models"
    )
    reserved_slots: int | None = Field(
        default=None,
        ge=0,
        le=1023,
        description="slots that bulk jobs leave free for interactive ones. Unset: 1 of 4 slots, 2 of 16, one in "
        "sixteen of more, and none after ten minutes without an interactive job",
    )
    microbatch: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="pipeline engine: most prompts that run together. Unset: half the slots",
    )
    # for a decode step; the limits of other phases follow from it (`workers.engine.runtime.heartbeat`)
    hang_s: float = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
        description="seconds without a sign of life from the engine after which its worker is ended; in prefill, five "
        "times as many",
    )

    @field_validator("model")
    @classmethod
    def _is_named(cls, model: str) -> str:
        if not model.strip() or "://" in model:
            raise ValueError("must be a hub name such as Qwen/Qwen3-VL-4B-Instruct, or a local folder")
        return model

    @field_validator("high_image_tokens")
    @classmethod
    def _is_no_less_than_usual(cls, tokens: int, info: ValidationInfo) -> int:
        usual = int(info.data.get("max_image_tokens", tokens))
        if tokens < usual and tokens != HIGH_IMAGE_TOKENS:
            raise ValueError(f"must be at least VQA_MAX_IMAGE_TOKENS, which is {usual}")
        return max(tokens, usual)

    @property
    def max_image_pixels(self) -> int:
        """Most pixels to which an image is scaled down."""
        return self.max_image_tokens * PIXELS_PER_TOKEN

    @property
    def planned_tokens(self) -> int:
        """Tokens of KV cache to plan for each slot.

        The continuous engine gives a prompt what it needs, so that one image, a question and an answer are planned for.
        """
        if self.engine != "continuous":
            return self.slot_tokens
        return min(self.slot_tokens, self.max_image_tokens + TEXT_TOKENS)

    def reserve_of(self, slots: int) -> int:
        """Return how many of `slots` slots bulk jobs leave free. Raises SettingsError if that is all of them."""
        if self.reserved_slots is None:
            # with 16 slots and a quarter of the jobs interactive, the simulated p95 wait is 0.1 of a job's time for one
            # reserved slot, 0.02 for two
            return max(1, slots // 16, min(2, slots // 8)) if slots >= 4 else 0
        if self.reserved_slots >= slots:
            raise SettingsError(
                f"VQA_RESERVED_SLOTS={self.reserved_slots}: of {slots} slots at most {slots - 1} can be reserved"
            )
        return self.reserved_slots

    def microbatch_of(self, slots: int) -> int:
        """Return the most prompts that run together in a pipeline whose card has `slots` slots."""
        return self.microbatch if self.microbatch is not None else max(1, slots // 2)
