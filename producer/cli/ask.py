"""`vqa ask`: one question about one image."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from producer.cli.options import (
    AsJson,
    Choice,
    Detail,
    FrequencyPenalty,
    Lane,
    LaneName,
    Logprobs,
    MaxImageTokens,
    MaxNewTokens,
    MaxReasoningTokens,
    MinP,
    Model,
    PresencePenalty,
    Probabilities,
    RedisUrl,
    RepetitionPenalty,
    Schema,
    Seed,
    ShrinkImages,
    ShrinkQuality,
    Shrinks,
    ShrinkTokens,
    Temperature,
    TopK,
    TopLogprobs,
    TopP,
    job_fields,
    response_format,
    shrink_option,
)


def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file or URL, or - for stdin.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    max_new_tokens: MaxNewTokens = None,
    max_reasoning_tokens: MaxReasoningTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    schema: Schema = None,
    choice: Choice = None,
    probabilities: Probabilities = False,
    logprobs: Logprobs = False,
    top_logprobs: TopLogprobs = None,
    detail: Detail = None,
    max_image_tokens: MaxImageTokens = None,
    shrink_images: ShrinkImages = False,
    shrink: Shrinks = False,
    shrink_tokens: ShrinkTokens = None,
    shrink_quality: ShrinkQuality = None,
    pages: Annotated[str | None, typer.Option(help="Pages of a TIFF or PDF file: 3, or 2-5.")] = None,
    video: Annotated[bool, typer.Option("--video", help="IMAGE is a video, shown as frames.")] = False,
    fps: Annotated[float | None, typer.Option(min=0.001, help="With --video: frames to show of each second.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="With --video: most frames to show.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds until the job expires.")] = None,
    lane: Lane = LaneName.interactive,
    model: Model = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is generated.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Ask one question about one image and wait for the answer.

    With --stream, Ctrl-C cancels the job. A URL is fetched where VQA_FETCH_HOSTS or VQA_FETCH_BUCKETS allows it.

    Example: vqa ask cat.jpg "What is on the mat?"

    Example: vqa ask cat.jpg "Is it a cat?" --choice yes --choice no --probabilities

    Example: vqa ask contract.tif "Who signed it?" --pages 2-3 --detail high
    """
    from producer.cli.stream import ask as ask_streamed
    from producer.client.client import Client
    from vqa.jobs.job import Job
    from vqa.tracing.active import start_tracing

    if stream and as_json:
        raise typer.BadParameter("cannot be used with --json", param_hint="--stream")
    if logprobs and not as_json:
        raise typer.BadParameter("needs --json", param_hint="--logprobs")
    fields = job_fields(
        lane,
        model=model,
        max_new_tokens=max_new_tokens,
        max_reasoning_tokens=max_reasoning_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        logprobs=logprobs or None,
        top_logprobs=top_logprobs,
        seed=seed,
        timeout_s=timeout,
        response_format=response_format(schema, choice, probabilities),
        detail=detail and detail.value,
        max_image_tokens=max_image_tokens,
        shrink_images=shrink_images or None,
        pages=pages,
        video=video or None,
        fps=fps,
        max_frames=max_frames,
    )
    if not video and (fps or max_frames):
        raise typer.BadParameter("needs --video", param_hint="--fps" if fps else "--max-frames")
    if video and pages:
        raise typer.BadParameter("cannot be used with --video", param_hint="--pages")
    start_tracing("vqa-client")
    with Client(shrink=shrink_option(shrink, shrink_tokens, shrink_quality) or False) as client:
        if image != "-":
            client.images.check(image)
        job = Job.about(sys.stdin.buffer if image == "-" else image, question, **fields)
        answer = ask_streamed(client, job) if stream else client.answer(client.submit(job))
    for seen in answer.images:
        if seen.frames > 1:
            # the query of a URL may be a signature
            name = image.partition("?")[0]
            print(f"vqa: {name}: the model saw the first of {seen.frames} frames; --video shows more", file=sys.stderr)
    if as_json:
        print(answer.model_dump_json(exclude_none=True))
    elif answer.choices:
        for option, share in sorted(answer.choices.items(), key=lambda each: -each[1]):
            print(f"{share:.4f} {option}")
    elif not stream:
        print(answer.text)
