"""The page in a headless Chromium, before a real gateway and an echo worker."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, expect

from tests.producer.gateway.gateway_process import GatewayProcess, StartGateway
from tests.worker_process import ROOT, StartWorker

IMAGE = ROOT / "examples" / "images" / "shape-07.png"
TIFF = ROOT / "examples" / "images" / "how-many-03.tiff"
ECHO = re.compile(r"^echo:[0-9a-f]{16}$")
PART = re.compile(r"^echo:[0-9a-f]{0,12}$")
PHONE = {"width": 360, "height": 640}


class Visit:
    """A page that somebody opened, what it asked the network for, and what its console said."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.requests: list[Request] = []
        self.said: list[str] = []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(url)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def paths(self, method: str) -> list[str]:
        return [urlsplit(each.url).path for each in self.requests if each.method == method]

    def choose(self, path: Path = IMAGE) -> None:
        self.page.set_input_files("#file", path)
        expect(self.page.locator("#caption")).to_contain_text(path.name)

    def ask(self, question: str) -> None:
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")

    def answer(self, number: int = 0) -> Any:
        """Return the place of an answer; 0 is the newest."""
        return self.page.locator("article .answer").nth(number)


Open = Callable[..., Visit]


@pytest.fixture
def open_page(browser: Browser, gateway: GatewayProcess) -> Iterator[Open]:
    """Open the shared gateway's page, or another's; at the end no request may have left for another origin."""
    visits: list[Visit] = []
    contexts = []

    def open(url: str = gateway.url, **options: Any) -> Visit:
        context = browser.new_context(**options)
        contexts.append(context)
        visits.append(Visit(context.new_page(), url))
        return visits[-1]

    yield open
    for visit in visits:
        own = {f"{urlsplit(visit.page.url).scheme}://{urlsplit(visit.page.url).netloc}", "blob://", "data://"}
        assert {f"{urlsplit(each.url).scheme}://{urlsplit(each.url).netloc}" for each in visit.requests} <= own
    for context in contexts:
        context.close()


def with_metadata(metadata: dict[str, str]) -> Callable[[Route], None]:
    """Let the echo engine behave as a test needs it; all else is as the page sends it."""

    def add(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        route.continue_(post_data=json.dumps(body | {"metadata": metadata}))

    return add


def bring(page: Page, path: Path, event: str) -> None:
    """Dispatch a paste or a drop with a file, as a browser does."""
    page.evaluate(
        """([event, name, content]) => {
            const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            document.querySelector("#question").dispatchEvent(event === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
                : new DragEvent("drop", { ...options, dataTransfer: transfer }));
        }""",
        [event, path.name, base64.b64encode(path.read_bytes()).decode()],
    )


@pytest.mark.parametrize("how", ["pick", "paste", "drop"])
def test_an_image_that_is_picked_pasted_or_dropped_is_shown_and_asked_about(open_page: Open, how: str) -> None:
    visit = open_page()
    if how == "pick":
        visit.choose()
    else:
        bring(visit.page, IMAGE, how)
    expect(visit.page.locator("#thumbnail")).to_be_visible()
    assert visit.page.evaluate("document.querySelector('#thumbnail').naturalWidth") > 0
    visit.ask("What is it?")
    expect(visit.answer()).to_have_text(ECHO)
    expect(visit.page.locator("article .question")).to_have_text("What is it?")
    assert visit.said == []


def test_a_second_question_sends_the_image_no_second_time(open_page: Open) -> None:
    visit = open_page()
    visit.choose()
    visit.ask("What is it?")
    expect(visit.answer()).to_have_text(ECHO)
    visit.ask("What is beside it?")
    expect(visit.page.locator("article")).to_have_count(2)
    expect(visit.answer()).to_have_text(ECHO)
    assert visit.answer(0).inner_text() != visit.answer(1).inner_text()
    assert visit.paths("POST") == ["/v1/images", "/v1/chat/completions", "/v1/chat/completions"]
    visit.choose(TIFF)
    # no browser but Safari shows TIFF; the gateway reads it
    expect(visit.page.locator("#thumbnail")).to_be_hidden()
    visit.ask("And this?")
    expect(visit.page.locator("article")).to_have_count(3)
    expect(visit.answer()).to_have_text(ECHO)
    assert visit.paths("POST").count("/v1/images") == 2


def test_an_answer_is_seen_as_it_grows_and_can_be_stopped(open_page: Open) -> None:
    visit = open_page()
    # a part of the answer is there for three seconds: Playwright looks once a second
    visit.page.route("**/v1/chat/completions", with_metadata({"echo_delay_s": "4"}))
    visit.choose()
    visit.ask("What is it?")
    expect(visit.answer()).to_have_text(PART)
    expect(visit.page.locator("article")).to_have_attribute("aria-busy", "true")
    expect(visit.answer()).to_have_text(ECHO)
    expect(visit.page.locator("article")).to_have_attribute("aria-busy", "false")

    visit.page.unroute("**/v1/chat/completions")
    visit.page.route("**/v1/chat/completions", with_metadata({"echo_delay_s": "30"}))
    visit.ask("And now?")
    expect(visit.answer()).to_have_text(PART)
    running = visit.page.locator("#queue")
    expect(running).to_contain_text("interactive: 0 waiting, 1 running")
    visit.page.click("#stop")
    expect(visit.page.locator("article .meta").first).to_contain_text("Stopped")
    # its slot is free
    expect(running).to_contain_text("interactive: 0 waiting, 0 running")
    expect(visit.page.locator("#ask")).to_be_enabled()
    assert visit.said == []


def test_a_lost_worker_is_told_and_another_one_answers(
    open_page: Open, start_gateway: StartGateway, start_worker: StartWorker
) -> None:
    short = {"VQA_LEASE_S": "1"}
    for name in ("one", "two"):
        start_worker(name, ready=False, **short)
    visit = open_page(start_gateway(**short).url)
    # and a line with their sum
    expect(visit.page.locator("#workers li")).to_have_count(3, timeout=60_000)
    expect(visit.page.locator("#workers li").first).to_have_text("2 workers · 0 answers in the last minute")
    # the other worker takes so long, and what is said meanwhile is there no longer
    ends_its_worker = {"echo_delay_s": "4", "echo_fail": "exit", "echo_fail_attempts": "1"}
    visit.page.route("**/v1/chat/completions", with_metadata(ends_its_worker))
    visit.choose()
    visit.ask("What is it?")
    expect(visit.answer()).to_have_text(PART)
    expect(visit.page.locator("article .meta")).to_have_text("A worker was lost; another one answers again.")
    # the text of both attempts is the same, and is there once
    expect(visit.answer()).to_have_text(ECHO)
    expect(visit.page.locator("#workers li")).to_have_count(1)


def test_shift_enter_begins_a_line_and_an_empty_question_is_not_sent(open_page: Open) -> None:
    visit = open_page()
    visit.ask("Without an image")
    expect(visit.page.get_by_role("alert")).to_have_text("Choose an image first.")
    visit.choose()
    visit.page.fill("#question", "")
    visit.page.press("#question", "Enter")
    expect(visit.page.get_by_role("alert")).to_have_text("Type a question first.")
    visit.page.type("#question", "one")
    visit.page.press("#question", "Shift+Enter")
    visit.page.type("#question", "two")
    visit.page.press("#question", "Enter")
    expect(visit.page.locator("article .question")).to_have_text("one\ntwo", use_inner_text=True)


def test_an_error_says_what_to_do_and_keeps_the_question(open_page: Open, tmp_path: Path) -> None:
    visit = open_page()
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    visit.page.set_input_files("#file", text)
    expect(visit.page.get_by_role("alert")).to_contain_text("Choose a JPEG, PNG, WebP, GIF, BMP or TIFF file.")
    visit.page.route("**/v1/chat/completions", with_metadata({"echo_fail": "PromptTooLong"}))
    visit.choose()
    visit.ask("<b>Why?</b>")
    expect(visit.page.get_by_role("alert")).to_contain_text("The job's metadata asked for this failure.")
    expect(visit.page.locator("#question")).to_have_value("<b>Why?</b>")
    # what people type is text
    expect(visit.page.locator("article .question")).to_have_text("<b>Why?</b>")
    visit.page.unroute("**/v1/chat/completions")
    visit.page.press("#question", "Enter")
    expect(visit.answer()).to_have_text(ECHO)
    expect(visit.page.get_by_role("alert")).to_be_hidden()


def test_a_gateway_that_is_away_is_told(open_page: Open) -> None:
    visit = open_page()
    visit.choose()
    visit.page.context.set_offline(True)
    visit.ask("What is it?")
    expect(visit.page.get_by_role("alert")).to_contain_text("The gateway cannot be reached.")
    visit.page.context.set_offline(False)
    visit.page.press("#question", "Enter")
    expect(visit.answer()).to_have_text(ECHO)


def test_a_large_image_is_scaled_down_to_what_the_gateway_takes(
    open_page: Open, start_gateway: StartGateway, shared_redis_url: str
) -> None:
    visit = open_page(start_gateway(redis=shared_redis_url, VQA_IMAGE_MAX_PIXELS="10000").url)
    expect(visit.page.locator("#workers")).to_contain_text("echo@")
    visit.choose()
    expect(visit.page.locator("#caption")).to_contain_text("scaled down from 210")
    visit.ask("What is it?")
    expect(visit.answer()).to_have_text(ECHO)


def test_the_queue_and_its_workers_are_shown_while_the_page_is_seen(open_page: Open) -> None:
    visit = open_page()
    expect(visit.page.locator("#workers li")).to_have_count(1)
    expect(visit.page.locator("#workers li")).to_have_text(
        re.compile(r"^echo@\S+ · echo · \d+ slots · \d+ answers? in the last minute$")
    )
    expect(visit.page.locator("#queue")).to_contain_text("bulk: 0 waiting, 0 running")
    visit.page.clock.install()
    with visit.page.expect_request("**/v1/status"):
        show(visit.page, hidden=False)
    expect(visit.page.locator("#workers li")).to_have_count(1)
    with visit.page.expect_request("**/v1/status"):
        visit.page.clock.run_for(2100)
    show(visit.page, hidden=True)
    seen = visit.paths("GET").count("/v1/status")
    visit.page.clock.run_for(60_000)
    assert visit.paths("GET").count("/v1/status") == seen


def show(page: Page, hidden: bool) -> None:
    """Say that another tab is in front, or this one."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: Open) -> None:
    visit = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    visit.choose()
    visit.ask("a" * 200)
    expect(visit.answer()).to_have_text(ECHO)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    camera = visit.page.locator("#camera")
    assert (camera.get_attribute("capture"), camera.get_attribute("accept")) == ("environment", "image/*")


def test_it_is_light_or_dark_as_the_system_is(open_page: Open) -> None:
    page = open_page(color_scheme="dark").page

    def brightness() -> int:
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    assert brightness() < 150
    page.emulate_media(color_scheme="light")
    assert brightness() > 600


def test_everything_is_reached_by_keyboard_and_has_a_name(open_page: Open) -> None:
    page = open_page(reduced_motion="reduce").page
    for expected in ("A", "file", "question", "ask"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id || document.activeElement.tagName") == expected
        shown = "document.activeElement.closest('.button') ?? document.activeElement"
        assert page.evaluate(f"getComputedStyle({shown}).outlineStyle") == "solid"
    expect(page.get_by_label("Question")).to_have_id("question")
    expect(page.get_by_label("Choose an image")).to_have_id("file")
    expect(page.get_by_role("button", name="Ask")).to_be_visible()


def test_a_key_is_asked_for_once_and_kept_out_of_addresses(
    open_page: Open, start_gateway: StartGateway, redis_url: str
) -> None:
    command = [sys.executable, "-m", "producer.cli.main", "keys", "create", "--name", "me", "--redis-url", redis_url]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    [key] = re.findall(r"vqa_\w+", said)
    visit = open_page(start_gateway().url)
    expect(visit.page.locator("#key")).to_be_focused()
    visit.page.fill("#key", "vqa_not_valid")
    visit.page.press("#key", "Enter")
    expect(visit.page.get_by_role("alert")).to_contain_text("Enter a valid one above")
    # with a question under way, which goes on with the key
    visit.choose()
    visit.ask("What is it?")
    expect(visit.page.locator("#question")).to_have_value("What is it?")
    visit.page.fill("#key", key)
    visit.page.press("#key", "Enter")
    expect(visit.page.locator("#key-form")).to_be_hidden()
    expect(visit.page.locator("#workers")).to_have_text("No worker is up")
    expect(visit.page.get_by_role("alert")).to_have_text(re.compile(r"No worker is ready.* Ask again in \d+ s\."))
    # the tab keeps the key, its address does not
    visit.page.reload()
    expect(visit.page.locator("#workers")).to_have_text("No worker is up")
    expect(visit.page.locator("#key-form")).to_be_hidden()
    assert not [each.url for each in visit.requests if key in each.url]
