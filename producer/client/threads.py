"""Runs blocking calls for the asyncio client, so that no short one waits behind a long one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from vqa.forks import restart_in_children

T = TypeVar("T")

#: short exchanges with Redis that run at once, and images that are read at once
_THREADS = 4

#: jobs whose images are fetched at once
_FETCHES = 32

_NAME = "vqa-producer"


class InThread(Protocol):
    """Runs a blocking function in a thread and waits for it without blocking the event loop."""

    def __call__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Awaitable[T]: ...


class Threads:
    """Threads of one client, apart from the event loop's default ones, which may be busy."""

    def __init__(self) -> None:
        self._closed = False
        self.start()
        restart_in_children(self)

    def start(self) -> None:
        """Make new executors; a forked child calls it again, because it has none of the threads."""
        self._short = ThreadPoolExecutor(_THREADS, _NAME)
        self._images = ThreadPoolExecutor(_THREADS, f"{_NAME}-images")
        self._fetches = ThreadPoolExecutor(_FETCHES, f"{_NAME}-fetches")

    def close(self) -> None:
        """Let calls in progress end by themselves, and start no others."""
        self._closed = True
        self._short.shutdown(wait=False)
        self._images.shutdown(wait=False)
        self._fetches.shutdown(wait=False)

    async def short(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one exchange with Redis."""
        return await self._run(self._short, function, *args, **kwargs)

    def start_short(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Start one exchange with Redis, which goes on even if nobody waits for it."""
        self._check_open()
        return self._short.submit(partial(function, *args, **kwargs))

    async def fetch(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an exchange before which images are fetched from servers that may be slow."""
        return await self._run(self._fetches, function, *args, **kwargs)

    def start_fetch(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Start such an exchange, which goes on even if nobody waits for it."""
        self._check_open()
        return self._fetches.submit(partial(function, *args, **kwargs))

    async def image(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Read or encode an image: its file may be slow, and too many at once take much memory."""
        return await self._run(self._images, function, *args, **kwargs)

    async def long(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run something of any length in a thread of its own."""
        with self.own() as in_thread:
            return await in_thread(function, *args, **kwargs)

    @contextmanager
    def own(self, last: Callable[[], object] | None = None) -> Iterator[InThread]:
        """Give a thread of its own to a series of calls; it calls `last` after them, whatever becomes of the caller."""
        executor = ThreadPoolExecutor(1, f"{_NAME}-own")
        try:
            yield partial(self._run, executor)
        finally:
            if last is not None:
                executor.submit(last)
            executor.shutdown(wait=False)

    async def _run(self, executor: Executor, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(executor, partial(function, *args, **kwargs))

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this AsyncClient is closed; make another: `async with AsyncClient() as client:`")
