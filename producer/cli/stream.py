"""Prints an answer while it is generated."""

from __future__ import annotations

import sys

from producer.client.client import Client
from producer.client.streams import AnswerStream
from vqa.answer import Answer
from vqa.errors import VQAError
from vqa.jobs.job import Job


def ask(client: Client, job: Job) -> Answer:
    """Submit a job, print its text as it comes, and return its answer. An interrupt cancels the job."""
    with client.stream(job) as stream:
        try:
            _print(stream)
        except VQAError:
            # what is said about it begins on a line of its own
            print(flush=True)
            raise
        print(flush=True)
    assert stream.answer is not None
    return stream.answer


def _print(stream: AnswerStream) -> None:
    for piece in stream:
        if piece.restarted:
            print(flush=True)
            print("vqa: the job runs again; its answer begins anew", file=sys.stderr, flush=True)
        print(piece.text, end="", flush=True)
