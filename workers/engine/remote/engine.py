"""The engine `remote`: other servers answer, and this process has neither a model nor torch."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from vqa.errors import EngineError, VQAError
from vqa.fetch.loop_thread import LoopThread
from vqa.images.fit import Fit
from vqa.images.video_fit import VideoFit
from workers.engine.base import Completion, OnCrash, Prompt, Stall
from workers.engine.remote.images import ImageUrls
from workers.engine.remote.reply import CutThought, Reply
from workers.engine.remote.request import ChatRequest
from workers.engine.remote.server import Server, Silence
from workers.engine.remote.servers import PATIENCE_S, Servers
from workers.engine.remote.settings import RemoteSettings
from workers.engine.runtime.heartbeat import Heartbeat, limit_s
from workers.engine.runtime.pending import Pending, PendingPrompts
from workers.engine.runtime.timers import Timers
from workers.engine.settings import PIXELS_PER_TOKEN, EngineSettings
from workers.engine.text.text_stream import TextStream

log = logging.getLogger(__name__)

#: pixels along each side of an image token (Qwen3-VL)
_FACTOR = 32


class RemoteEngine:
    """Implements `Engine`: sends each prompt to one of several servers, and streams its answer.

    At most `slots` prompts are under way at once; how many each server gets, its window decides.
    """

    #: the server scales its own videos, each kind of model in its way
    video_fit: VideoFit | None = None

    def __init__(
        self,
        settings: EngineSettings,
        slots: int,
        remote: RemoteSettings | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Raises NotReady without a URL, SettingsError for keys that do not match the URLs."""
        self.model = settings.model
        # The server's model may see an image in another size. With this one `detail` and `max_image_tokens` bound what
        # is sent, and Qwen3-VL's own processor has nothing left to scale.
        self.fit: Fit | None = Fit(_FACTOR, PIXELS_PER_TOKEN, settings.high_image_tokens * PIXELS_PER_TOKEN)
        self._settings = settings
        self._addresses = (remote or RemoteSettings()).servers
        self._slots = slots
        self._patience_s = patience_s
        self._images = ImageUrls()
        self._timers = Timers("deadlines")
        self._pending = PendingPrompts(self._timers)
        self._heartbeat = Heartbeat(settings.hang_s)
        self._thread: LoopThread | None = None
        self._servers: Servers | None = None

    def start(self, on_crash: OnCrash) -> None:
        """Wait for a server. Raises NotReady."""
        self._timers.start()
        self._thread = LoopThread("vqa-remote")
        starting = self._thread.submit(self._start())
        try:
            self.model = starting.result()
        except BaseException:
            self.stop()
            raise

    @property
    def places(self) -> int:
        """How many prompts the servers take at once now; 0 while none answers."""
        return min(self._slots, self._servers.places) if self._servers else 0

    def stall(self) -> Stall | None:
        """Return a Stall if the event loop hangs."""
        return self._heartbeat.stall()

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt; its images are encoded before this returns."""
        pending = self._pending.add(prompt)
        if pending.settled:
            return pending.future
        try:
            request = ChatRequest.from_prompt(prompt, self._images, self._settings.max_reasoning_tokens)
            # `stop` may be called meanwhile
            if (thread := self._thread) is None:
                raise EngineError("the engine is not running")
            asking = thread.submit(self._ask(pending, request))
        except VQAError as error:
            pending.fail(error)
        except RuntimeError:
            pending.fail(EngineError("the engine is stopping"))
        else:
            # the deadline or a cancellation closes the connection, on which the server stops computing
            pending.future.add_done_callback(partial(_cancel, asking))
        return pending.future

    def cancel(self, id: str) -> None:
        self._pending.cancel(id)

    def stop(self) -> None:
        self._pending.close(EngineError("the engine is stopping"))
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close(self._servers.stop() if self._servers else None)
        self._heartbeat.idle()
        self._timers.stop()

    async def _start(self) -> str:
        silence = Silence(limit_s("prefill", self._settings.hang_s), self._settings.hang_s)
        made = [Server(address, self._slots, silence) for address in self._addresses]
        self._servers = Servers(made, partial(self._heartbeat.beat, "decode"))
        return await self._servers.start(self._settings, self._patience_s)

    async def _ask(self, pending: Pending, request: ChatRequest) -> None:
        try:
            pending.answer(await self._answer(pending, request))
        except VQAError as error:
            pending.fail(error)
        except asyncio.CancelledError:
            pending.fail(EngineError("the engine is stopping"))
            raise
        except Exception as error:
            log.exception("asking a server failed")
            pending.fail(EngineError(f"the engine failed on this prompt ({type(error).__name__})"))

    async def _answer(self, pending: Pending, request: ChatRequest) -> Completion:
        assert self._servers is not None
        stream = TextStream(pending) if pending.prompt.on_text else None
        while True:
            make = partial(Reply, request, stream.write if stream else None)
            reply, had_room = await self._servers.answer(request, pending.prompt.lane, make)
            try:
                completion = reply.completion(had_room)
            except CutThought:
                # once: from now on the model is known to think
                if stream:
                    stream.restart()
                continue
            seen = (None,) * len(pending.prompt.images)
            waited_s = reply.sent_at - pending.since
            return replace(completion, image_sizes=seen, image_tokens=seen, slot_wait_s=waited_s)


def _cancel(asking: Future[None], _: Future[Completion]) -> None:
    asking.cancel()
