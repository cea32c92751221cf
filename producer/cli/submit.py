"""The commands `vqa submit`, `vqa collect` and `vqa batches`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
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
    Output,
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

app = typer.Typer()

Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only: no progress bar, no summary.")]


class FormName(StrEnum):
    auto = "auto"
    openai = "openai"
    short = "short"
    csv = "csv"
    parquet = "parquet"
    images = "images"


def _parse_form(name: str) -> FormName:
    if name == "pictures":
        print("vqa: --form pictures is deprecated; use --form images", file=sys.stderr)
        return FormName.images
    try:
        return FormName(name)
    except ValueError:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(FormName)}") from None


@app.command()
def submit(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help="Files of rows or a glob of them, a folder or glob of images, or -.",
        ),
    ],
    output: Output = None,
    errors: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="File for rows without an answer.  [default: beside OUT; short form: OUT itself]"
        ),
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="Question about each image; repeatable.")] = None,
    form: Annotated[
        FormName,
        typer.Option(parser=_parse_form, metavar=f"<{'|'.join(FormName)}>", help="Form of INPUT; auto detects it."),
    ] = FormName.auto,
    id_column: Annotated[str, typer.Option(help="Table column with the ids.")] = "id",
    image_column: Annotated[str, typer.Option(help="Table column with the images.")] = "image",
    question_column: Annotated[str, typer.Option(help="Table column with the questions.")] = "question",
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Table column that is a field of its row: detail, pages, video, fps, frames, times_s, max_frames, "
            "max_image_tokens or shrink_images; repeatable."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Send nothing if a row is invalid, or would be asked about in part.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start over: delete OUT, ERR and REVIEW, and cancel the batch's open jobs."),
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Send rows again that failed earlier.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Put all rows on the queue, print the batch's id and exit.")
    ] = False,
    max_inflight: Annotated[
        int | None,
        typer.Option(min=1, help="Most jobs on the queue at once.  [default: 4 per worker slot, 256 to 5,000]"),
    ] = None,
    lane: Lane = LaneName.bulk,
    model: Model = None,
    tenant: Annotated[str | None, typer.Option(help="Owner of the jobs; tenants' bulk jobs take turns.")] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Accept an existing answer to the same question about the same images.")
    ] = False,
    within: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which rows without an answer are given up.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds after which a job is given up.")] = None,
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
    review_below: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="With --review: copy answers whose choice is less probable; implies --probabilities."
        ),
    ] = None,
    review: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for the answers that --review-below selects.")
    ] = None,
    logprobs: Logprobs = False,
    top_logprobs: TopLogprobs = None,
    detail: Detail = None,
    max_image_tokens: MaxImageTokens = None,
    shrink_images: ShrinkImages = False,
    shrink: Shrinks = False,
    shrink_tokens: ShrinkTokens = None,
    shrink_quality: ShrinkQuality = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="Price for the cost in the summary, in any currency.")
    ] = None,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
) -> None:
    """Submit rows and write their answers as they finish. Repeat the same command to resume.

    INPUT is an OpenAI Batch file, lines of {"id": "q1", "image": "cat.jpg", "question": "What is on the mat?"}, CSV or
    Parquet (form and compression are detected), or images and a --question. The exit status is 3 if rows failed.

    Example: vqa submit questions.jsonl -o answers.jsonl

    Example: vqa submit photos/ --question "What is on it?" -o captions.jsonl.gz --tenant lab

    Example: vqa submit in/ --question "Sharp?" --choice yes --choice no -o a.jsonl --review-below 0.8 --review r.jsonl

    Example: vqa submit receipts.csv --image-column file --id-column nr -o totals.jsonl --within 3600 --strict
    """
    from producer.bulk.detach import detach as send
    from producer.bulk.plan import Plan, Review
    from producer.bulk.submit import submit as run
    from producer.inputs import Columns, detect_source
    from vqa.tracing.active import start_tracing

    start_tracing("vqa-client")
    if (review_below is None) != (review is None):
        given, needed = ("--review", "--review-below") if review_below is None else ("--review-below", "--review")
        raise typer.BadParameter(f"needs {needed}", param_hint=given)
    answer = {
        "model": model,
        "max_new_tokens": max_new_tokens,
        "max_reasoning_tokens": max_reasoning_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "repetition_penalty": repetition_penalty,
        "logprobs": logprobs or None,
        "top_logprobs": top_logprobs,
        "seed": seed,
        "response_format": response_format(schema, choice, probabilities or bool(choice and review)),
        "max_image_tokens": max_image_tokens,
        "shrink_images": shrink_images or None,
    }
    source = detect_source(
        inputs,
        form=form.value,
        questions=question or (),
        columns=Columns(id_column, image_column, question_column, tuple(column or ())),
        defaults={name: value for name, value in answer.items() if value is not None},
        detail=detail.value if detail else None,
    )
    plan = Plan(
        source=source,
        out=None if output is None or str(output) == "-" else output,
        errors=errors,
        strict=strict,
        restart=restart,
        retry_failed=retry_failed,
        max_inflight=max_inflight,
        within_s=within,
        price=price_per_gpu_hour,
        quiet=quiet,
        review=None if review_below is None or review is None else Review(review_below, review),
        shrink=shrink_option(shrink, shrink_tokens, shrink_quality),
        delivery=job_fields(lane, tenant=tenant, timeout_s=timeout, reuse=reuse or None),
    )
    raise typer.Exit(send(plan) if detach else run(plan))


@app.command()
def collect(
    ids: Annotated[list[str], typer.Argument(metavar="BATCH|ID", show_default=False)],
    output: Output = None,
    errors: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="File for rows without an answer.  [default: beside OUT; of ids: OUT itself]"
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; the jobs keep running.")] = None,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
) -> None:
    """Wait for the answers of a batch that was submitted with --detach, or of jobs by id.

    The exit status is 3 if rows failed, and 75 if --timeout ended the wait; open jobs have no line then.

    Example: vqa collect batch_6f2a9c0d1e3b5a7788990011 -o answers.jsonl
    """
    from producer.bulk.collect import collect as run

    raise typer.Exit(run(ids, output, errors, timeout, quiet))


@app.command()
def batches(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the newest batches.

    Example: vqa batches --limit 5
    """
    from producer.cli import show_batch
    from producer.client.client import Client

    with Client() as client:
        print(show_batch.batches(client.batches.list(limit), as_json))
