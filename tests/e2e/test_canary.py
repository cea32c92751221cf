"""Nothing of an image, a question or an answer is in what processes print, send as events or show in Flower.

A word is hidden in every place where users put text and image bytes. Jobs with it are answered and fail in all ways,
at log level DEBUG. Afterwards the word is looked for in all that came out, besides the answers.
"""

import base64
import gc
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
from celery import Celery
from PIL import Image, PngImagePlugin
from redis import Redis

from producer import Client, Job, VQAError
from producer.demo.redis_server import free_port
from tests.e2e.conftest import WAIT_S, until
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, TINY, WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

#: the word; its length is a multiple of 3, so that base64 of it alone is a part of base64 of more
WORD = "canarybirdqz"
#: the word as text, in base64 at each offset without the characters that its neighbours change, and in hexadecimal
NEEDLES = [
    WORD,
    *(base64.b64encode(b"\0" * offset + WORD.encode() + b"\0" * 3).decode()[4:16] for offset in range(3)),
    WORD.encode().hex(),
]
PASSWORD = "a password for tests"

#: its site is seven processes, each of which takes long to start on a machine that does much else
pytestmark = pytest.mark.timeout(400)

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSBnYXRld2F5IGZvciB0ZXN0cw=="
CHOICE = {"type": "choice", "choices": [f"the {WORD} answer"]}


def photo(kind: str, *, damaged: bool = False) -> bytes:
    """Draw an image whose file says the word wherever the format has a place for text."""
    image, buffer = Image.new("RGB", (64, 48), "teal"), io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = WORD
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", WORD)
        text.add_itxt("Title", WORD)
        image.save(buffer, kind, exif=exif, pnginfo=text)
    elif kind == "TIFF":
        image.save(buffer, kind, tiffinfo={270: WORD, 315: WORD})
    else:
        image.save(buffer, kind, exif=exif, comment=WORD.encode())
    content = buffer.getvalue()
    # what comes first is whole, so that the text is read before the damage
    return content[: len(content) * 2 // 3] + WORD.encode() * 4 if damaged else content


@contextmanager
def image_server() -> Iterator[str]:
    """Serve a photo, errors with the word in them, and redirects to addresses with the word."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = 200 if "good" in self.path else 404 if "gone" in self.path else 500
            body = photo("JPEG") if status == 200 else WORD.encode()
            self.send_response(status)
            self.send_header("Content-Type", "image/jpeg" if status == 200 else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Said", WORD)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Site:
    """Redis, a supervised echo worker, the bundled model on another queue, a gateway, Flower, a server of images."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.folder = folder
        self.images = opened.enter_context(image_server())
        self.server = opened.enter_context(RedisServer(folder / "redis"))
        self.url = self.server.url
        self.model_url = self.url.rsplit("/", 1)[0] + "/1"
        self.fetch = {
            "VQA_FETCH": "worker",
            "VQA_FETCH_HOSTS": "http://127.0.0.1:*",
            "VQA_FETCH_PRIVATE": "1",
        }
        debug = {"VQA_LOG_LEVEL": "DEBUG", "VQA_LABEL": "By a machine.", "VQA_FILTER_LISTS": str(folder / "words")}
        debug["VQA_FILTER_ACTIONS"] = "default=flag,hard=refuse"
        (folder / "words").write_text(f"{WORD}\n{WORD}-refused\thard\n")
        self.events = opened.enter_context(_events(self.url, self.model_url))
        self._started: list[subprocess.Popen[bytes]] = []
        opened.callback(self._end_started)
        self._start("supervisor", "-m", "workers", VQA_ENGINE="echo", VQA_CARDS="cpu", **self.fetch, **debug)
        model = {"VQA_ENGINE": "continuous", "VQA_MODEL": str(TINY), "VQA_SLOTS": "1", **debug}
        self.model = WorkerProcess(self.model_url, "model", folder / "model.log", **model)
        opened.callback(self.model.stop)
        self.flower_port = free_port("127.0.0.1")
        flower = {"VQA_FLOWER_PORT": str(self.flower_port), "VQA_FLOWER_PASSWORD": PASSWORD}
        self._start("flower", "-m", "producer.monitor.flower", "--logging=debug", **flower)
        hooks = {"VQA_GATEWAY_WEBHOOK_PRIVATE": "1", "VQA_GATEWAY_WEBHOOK_SECRET": SECRET}
        self.gateway = GatewayProcess(self.url, folder / "gateway", **hooks, **self.fetch)
        opened.callback(self.gateway.stop)

    def _start(self, name: str, *program: str, **variables: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VQA_")}
        environment |= {"VQA_REDIS_URL": self.url, **variables}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *program], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self._started.append(process)

    def stop(self) -> None:
        self._end_started()
        self.gateway.stop()
        self.model.stop()

    def _end_started(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        for process in self._started:
            process.wait(WAIT_S)

    def run(self, name: str, *arguments: str) -> None:
        """Run a command to its end; its output is kept."""
        environment = os.environ | {"VQA_REDIS_URL": self.url, **self.fetch}
        ended = subprocess.run(
            [sys.executable, "-m", "producer.cli.main", *arguments],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            timeout=WAIT_S,
        )
        (self.folder / f"{name}.log").write_bytes(ended.stderr)

    def has_flower(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.flower_port}/healthcheck", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            # it does not listen yet, or has much to do
            return False

    def flower_pages(self, ids: Sequence[str]) -> str:
        pages = ["api/tasks", "tasks", "workers", "api/workers?refresh=1", "metrics", "broker", "api/queues/length"]
        pages += [f"{kind}/{id}" for id in ids for kind in ("task", "api/task/info")]
        return "\n".join(
            requests.get(f"http://127.0.0.1:{self.flower_port}/{page}", auth=("vqa", PASSWORD), timeout=30).text
            for page in pages
        )


@contextmanager
def _events(*urls: str) -> Iterator[list[str]]:
    """Collect the events and remote-control messages of all workers, decoded."""
    seen: list[str] = []
    stopping = threading.Event()

    def listen(url: str) -> None:
        with Redis.from_url(url) as redis, redis.pubsub() as pubsub:
            pubsub.psubscribe("*celeryev*", "*pidbox*")
            while not stopping.is_set():
                message = pubsub.get_message(timeout=0.1)
                if message and message["type"] == "pmessage":
                    body = json.loads(message["data"])
                    seen.append(f"{body.get('headers')} {body.get('properties')} {base64.b64decode(body['body'])!r}")

    threads = [threading.Thread(target=listen, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def question(text: str = f"What of {WORD}?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def about(image: bytes | str, **fields: Any) -> Job:
    """Return a job that says the word wherever it can."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": f"What of {WORD}?"}]
    metadata = {"note": WORD, **fields.pop("metadata", {})}
    return Job(messages=[{"role": "user", "content": parts}], metadata=metadata, stop=[WORD], **fields)


def fails(client: Client, id: str) -> str:
    with pytest.raises(VQAError) as caught:
        client.answer(id, timeout_s=WAIT_S)
    return f"{type(caught.value).__name__}: {caught.value} {caught.value.last_error}"


def once(**metadata: str) -> dict[str, str]:
    return {"note": WORD, **metadata}


def ask_echo(site: Site, client: Client) -> tuple[list[str], list[str]]:
    """Submit jobs that are answered and jobs that fail; return all ids, and the messages of the errors."""
    brief = {"attempts": 1}
    answered = [
        *(about(photo(kind)) for kind in ("PNG", "JPEG", "TIFF", "WEBP")),
        about(f"{site.images}/good.jpg?sig={WORD}"),
        Job(messages=question(), response_format=CHOICE, metadata=once(), reuse=True),
        Job(messages=question(), metadata=once(echo_fail="EngineError", echo_fail_attempts="1"), retry={"base_s": 0}),
        # ends its worker process, which the supervisor starts again
        Job(messages=question(), metadata=once(echo_fail="exit", echo_fail_attempts="1"), timeout_s=90),
    ]
    failing = [
        *(about(photo(kind, damaged=True)) for kind in ("PNG", "JPEG", "TIFF")),
        about(f"{site.images}/gone.jpg?sig={WORD}"),
        about(f"{site.images}/error.jpg?sig={WORD}", retry=brief),
        about(f"http://169.254.169.254/{WORD}?sig={WORD}", retry=brief),
        Job(messages=question(), metadata=once(echo_fail="BadImage")),
        Job(messages=question(), metadata=once(echo_fail="EngineError"), retry=brief),
        Job(messages=question(), metadata=once(echo_delay_s="60"), timeout_s=0.5),
    ]
    ids = client.submit_many(answered)
    texts = [client.answer(id, timeout_s=WAIT_S).text for id in ids]
    assert any(WORD in text for text in texts)
    assert client.answer(ids[5]).filtered == ("default",)
    with client.stream(Job(messages=question(), response_format=CHOICE)) as stream:
        assert any(WORD in piece.text for piece in stream)
    failed = client.submit_many(failing)
    return [*ids, *failed], [fails(client, id) for id in failed]


def ask_as_another_app(site: Site) -> list[str]:
    """Send messages that are jobs, and some that are none."""
    app = Celery("other", broker=site.url, backend=site.url, set_as_current=False)
    data_url = "data:image/png;base64," + base64.b64encode(photo("PNG")).decode()
    image = {"type": "image", "image": data_url}
    sent = [
        app.send_task("vqa.answer", [job], kwargs=kwargs, queue="bulk").id
        for job, kwargs in (
            ({"messages": [{"role": "user", "content": [image, {"type": "text", "text": WORD}]}]}, {}),
            ({"messages": question(), "unknown": WORD}, {}),
            ({"messages": question(), "temperature": WORD}, {"unknown": WORD}),
            (WORD, {}),
        )
    ]
    app.send_task("vqa.unknown", [WORD], queue="bulk")
    with connect(QueueSettings(redis_url=site.url)) as redis:
        broken = {"body": WORD, "headers": {"task": "vqa.answer", "id": "1"}, "properties": {}}
        redis.lpush("bulk", WORD.encode(), json.dumps(broken))
        until(lambda: all(redis.exists(f"celery-task-meta-{id}") for id in sent))
    # results in cycles unsubscribe as they are collected, for which they need the connection
    gc.collect()
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()
    app.close()
    return sent


def ask_the_gateway(site: Site) -> None:
    def post(path: str, body: Any, **headers: str) -> httpx2.Response:
        url = f"{site.gateway.url}{path}?{WORD}={WORD}"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.post(
            url, content=content, headers={"Content-Type": "application/json", **headers}, timeout=WAIT_S
        )

    data_url = "data:image/tiff;base64," + base64.b64encode(photo("TIFF")).decode()
    for address, status in ((data_url, 200), (f"{site.images}/good.jpg?sig={WORD}", 200), (f"data:{WORD}", 400)):
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": WORD}]
        body = {"messages": [{"role": "user", "content": content}], "user": WORD}
        assert post("/v1/chat/completions", body).status_code == status, address
    streamed = {"messages": question(), "stream": True, "response_format": CHOICE}
    assert post("/v1/chat/completions", streamed).status_code in (200, 400)
    assert post("/v1/chat/completions", f'{{"{WORD}": {WORD}'.encode()).status_code == 400
    assert post("/v1/chat/completions", {WORD: WORD, "messages": question()}).status_code in (200, 400)
    asked = {"image": data_url, "question": WORD, "webhook": f"{site.images}/error?sig={WORD}"}
    assert post("/v1/jobs", asked).status_code in (200, 202, 400, 404, 405, 422)
    hooked = {"messages": question(), "vqa": {"webhook": {"url": f"{site.images}/error?sig={WORD}"}}}
    post("/v1/chat/completions", hooked, Prefer="respond-async")
    httpx2.get(f"{site.gateway.url}/v1/jobs/{WORD}", timeout=WAIT_S)
    httpx2.get(f"{site.gateway.url}/{WORD}?{WORD}", headers={"User-Agent": WORD, "Referer": WORD}, timeout=WAIT_S)
    files = {"image": (f"{WORD}.png", photo("PNG", damaged=True), "image/png")}
    httpx2.post(f"{site.gateway.url}/v1/ask", data={"question": WORD}, files=files, timeout=WAIT_S)


def ask_in_bulk(site: Site) -> None:
    """Submit rows with good and bad images; files are not named by the word, since the command names them."""
    for name, damaged in (("good.png", False), ("bad.png", True)):
        (site.folder / name).write_bytes(photo("PNG", damaged=damaged))
    rows = [
        {"id": "1", "image": "good.png", "question": WORD},
        {"id": "2", "image": "bad.png", "question": WORD},
        {"id": "3", "image": f"{site.images}/good.jpg?sig={WORD}", "question": WORD},
        {"id": "4", "image": f"{site.images}/gone.jpg?sig={WORD}", "question": WORD},
        {
            "id": "5",
            "image": "good.png",
            "question": WORD,
            "metadata": {"echo_fail": "EngineError"},
            "temperature": WORD,
        },
    ]
    lines = [*map(json.dumps, rows), f'{{"id": "6", "question": {WORD}']
    (site.folder / "rows.jsonl").write_text("\n".join(lines))
    site.run("bulk", "submit", "rows.jsonl", "-o", "answers.jsonl")
    answers = (site.folder / "answers.jsonl").read_text()
    assert answers.count("echo:") >= 1, (site.folder / "bulk.log").read_text()


def ask_the_model(site: Site) -> list[str]:
    with Client(QueueSettings(redis_url=site.model_url)) as client:
        good = client.submit(about(photo("TIFF"), max_new_tokens=8))
        chosen = client.submit(Job(messages=question(), response_format=CHOICE))
        long = client.submit(Job(messages=question(f"{WORD} " * 20_000)))
        bad = client.submit(about(photo("JPEG", damaged=True)))
        cut = client.submit(Job(messages=question(), response_format=CHOICE, max_new_tokens=2))
        client.answer(good, timeout_s=WAIT_S)
        assert WORD in client.answer(chosen, timeout_s=WAIT_S).text
        return [fails(client, id) for id in (long, bad, cut)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All that came out, by where."""
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as opened:
        site = Site(folder, opened)
        settings = QueueSettings(redis_url=site.url, **{"fetch": "worker"})
        with Client(settings) as client:
            site.gateway.wait_ready()
            until(site.has_flower)
            ids, errors = ask_echo(site, client)
            until(client.workers)
            ids += ask_as_another_app(site)
            ask_the_gateway(site)
            ask_in_bulk(site)
            with connect(QueueSettings(redis_url=site.model_url)) as redis:
                site.model.wait_ready(Ledger(redis))
            errors += ask_the_model(site)
            shown = {"flower's pages": site.flower_pages(ids), "errors": "\n".join(errors)}
            shown["list of workers"] = str(client.workers())
        site.stop()
        shown["events"] = "\n".join(site.events)
    shown |= {file.stem: file.read_text(errors="replace") for file in folder.glob("*.log")}
    shown |= {f"gateway's {file.name}": file.read_text() for file in (folder / "gateway").iterdir()}
    return shown


#: what has to be in each, so that it is known to have been looked at
PLACES = {
    "supervisor": "DEBUG",
    "model": "DEBUG",
    "flower": "tasks",
    "flower's pages": "vqa.answer",
    "events": "task-succeeded",
    "errors": "BadImage",
    "list of workers": "filtered",
    "gateway's log": "listening",
    "gateway's access.jsonl": "/v1/chat/completions",
    "bulk": "row",
}


@pytest.mark.parametrize("place", [pytest.param(place, id=place.replace(" ", "-")) for place in PLACES])
def test_no_word_of_a_user_is_in(place: str, seen: dict[str, str]) -> None:
    text = seen[place]
    assert PLACES[place] in text
    found = [line for line in text.splitlines() if any(needle in line for needle in NEEDLES)]
    assert found == []


def test_the_word_is_recognised_in_image_bytes() -> None:
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        content = photo(kind)
        assert any(needle in base64.b64encode(content).decode() for needle in NEEDLES[1:4])
        assert WORD in str(content)
