"""Asking: clients that put jobs on the queue and wait for their answers. No torch, no model."""

from producer.client import Client
from vqa import *  # noqa: F403
from vqa import __all__ as _shared

__all__ = ["Client", *_shared]
