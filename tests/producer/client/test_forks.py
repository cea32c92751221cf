"""Clients in children that are forked while threads use them: each child has its own connections, locks and threads."""

import asyncio
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from producer import AsyncClient, Client, Job
from tests.producer.conftest import MakeJob, PlayedWorker, answer
from vqa.settings import QueueSettings

# Python 3.12 and later warn of a fork in a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

#: longest life of a child
_CHILD_S = 20


def fork(body: Callable[[], None]) -> int:
    """Run the body in a forked child, whose status is 0 if it returns; return the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def status(pid: int) -> int:
    """Wait until the child has ended; return its status."""
    until = time.monotonic() + _CHILD_S
    while time.monotonic() < until:
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("a child hangs")


@contextmanager
def threads_that_ask(client: Client, question: MakeJob) -> Iterator[None]:
    """Have four threads ask one question after the other."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                client.answer(client.submit(question("parent")))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not failed


def test_children_forked_while_threads_ask_get_their_answers_and_end(
    client: Client, echoing: None, question: MakeJob
) -> None:
    def ask() -> None:
        for number in range(3):
            assert client.answer(client.submit(question(f"child {number}"))).text == f"child {number}"
        client.close()

    with threads_that_ask(client, question):
        children = []
        for number in range(12):
            # not all at the same point of the threads' work
            time.sleep(0.013 * (number % 5))
            children.append(fork(ask))
        assert [status(pid) for pid in children] == [0] * 12
    assert client.answer(client.submit(question("afterwards"))).text == "afterwards"


def test_a_child_forked_while_a_lock_of_the_client_is_held_does_not_wait_for_it(
    client: Client, echoing: None, question: MakeJob
) -> None:
    from celery import Celery

    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        # kombu's, one for all apps, and held at every access
        with vars(Celery)["amqp"].lock:
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait(10)
    try:
        child = fork(lambda: client.answer(client.submit(question("child"))) and None)
        assert status(child) == 0
    finally:
        release.set()
        holder.join(10)


def test_parent_and_child_hear_of_their_own_jobs_alone(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    assert status(fork(lambda: client.submit(question(id="child")) and None)) == 0
    client.submit(question(id="parent"))
    replies = {worker.take(id).header.reply for id in ("child", "parent")}
    assert len(replies) == 2


def test_handles_and_iterators_from_before_the_fork_work_or_say_what_to_do(
    client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    batch = client.batches.create([question(id="row")])
    [(id, _)] = batch.rows(0)
    worker.close(id, answer(id, "from before"))
    first, second = client.submit_many([question(), question()])
    outcomes = client.answers([first, second])
    worker.close(first, answer(first, "first"))
    assert next(outcomes)[0] == first

    def child() -> None:
        assert [record["text"] for record in batch.records()] == ["from before"]
        with pytest.raises(RuntimeError, match="the process forked during this call"):
            next(outcomes)

    assert status(fork(child)) == 0
    worker.close(second, answer(second, "second"))
    assert next(outcomes)[0] == second


def test_a_generator_that_was_read_before_the_fork_is_not_read_on_in_the_child(
    client: Client, echoing: None, question: MakeJob
) -> None:
    forked = threading.Event()

    def jobs() -> Iterator[Job]:
        yield question("0")
        yield question("1")
        assert forked.wait(60)
        yield question("2")

    outcomes = client.ask_many(jobs())
    next(outcomes)

    def child() -> None:
        with pytest.raises(RuntimeError, match="the process forked during this call"):
            list(outcomes)

    assert status(fork(child)) == 0
    forked.set()
    assert len(list(outcomes)) == 2


def test_the_asyncio_client_asks_in_children_too(queue_settings: QueueSettings, echoing: None, png: bytes) -> None:
    async def ask(client: AsyncClient, question: str) -> None:
        assert (await client.ask(png, question)).text == question
        assert await client.counts()

    async def main() -> None:
        async with AsyncClient(queue_settings) as client:
            await ask(client, "parent")
            loop = asyncio.get_running_loop()
            # in another thread, because asyncio's own state is the parent's
            child = await loop.run_in_executor(None, fork, lambda: asyncio.run(ask(client, "child")))
            assert await loop.run_in_executor(None, status, child) == 0
            await ask(client, "parent again")

    asyncio.run(main())
