"""One question about images, by form or JSON."""

from typing import Any

import httpx2
import pytest

from producer.gateway.chat.ask_schema import AskAnswer
from tests.producer.gateway.chat_bodies import chat, image_bytes, image_url

PATH = "/v1/ask"


def upload(*colours: str) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("image", (f"{colour}.png", image_bytes(colour), "image/png")) for colour in colours]


def test_a_form_is_answered_as_the_same_chat_is(http: httpx2.Client) -> None:
    form = {"question": "Which is greener?", "system": "Be brief.", "max_tokens": "20", "temperature": "0"}
    form |= {"reuse": "False", "lane": "interactive", "timeout_s": "20"}
    reply = http.post(PATH, data=form, files=upload("teal", "green"))
    assert reply.status_code == 200, reply.text
    answer = AskAnswer.model_validate_json(reply.content, extra="forbid")
    assert reply.headers["x-vqa-job-id"] == answer.id
    assert len(answer.vqa.images) == 2
    body = chat("Which is greener?", image_url("teal"), image_url("green"))
    body["messages"].insert(0, {"role": "system", "content": "Be brief."})
    completion = http.post("/v1/chat/completions", json=body).json()
    assert answer.answer == completion["choices"][0]["message"]["content"]


def test_plain_text_is_just_the_answer(http: httpx2.Client) -> None:
    form = {"question": "What is it?"}
    whole = http.post(PATH, data=form, files=upload("teal"))
    plain = http.post(PATH, data=form, files=upload("teal"), headers={"accept": "text/plain"})
    assert plain.text == whole.json()["answer"]
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_image_may_be_named_by_its_id(http: httpx2.Client) -> None:
    id = http.post("/v1/images", content=image_bytes(), headers={"content-type": "image/png"}).json()["id"]
    asked: list[dict[str, Any]] = [
        {"data": {"question": "?", "image": id}},
        {"files": [("image", (None, id)), ("question", (None, "?"))]},
        {"json": {"question": "?", "image": [id]}},
        {"json": {"question": "?", "image": image_url(), "stop": "x", "vqa": None}},
    ]
    answers = [http.post(PATH, **request) for request in asked]
    assert [reply.status_code for reply in answers] == [200] * 4, [reply.text for reply in answers]
    assert len({reply.json()["answer"] for reply in answers}) == 1


def test_structured_answers_come_with_their_value(http: httpx2.Client) -> None:
    form = {"question": "?", "response_format": '{"type": "choice", "choices": ["yes", "no"]}'}
    reply = http.post(PATH, data=form, files=upload("teal"))
    assert reply.status_code == 200, reply.text
    assert reply.json()["vqa"]["parsed"] == reply.json()["answer"]


def test_empty_fields_of_a_page_are_left_out(http: httpx2.Client) -> None:
    form = {"question": "?", "system": "", "max_tokens": "", "stop": ["", "x"]}
    files = [*upload("teal"), ("image", ("", b"", "application/octet-stream"))]
    assert http.post(PATH, data=form, files=files).status_code == 200


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({}, "question"),
        ({"question": "  "}, "question"),
        ({"question": ["a", "b"]}, "question"),
        ({"question": "?", "frequency_penalty": "1"}, "frequency_penalty"),
        ({"question": "?", "max_tokens": "many"}, "max_tokens"),
        ({"question": "?", "lane": "fast"}, "lane"),
        ({"question": "?", "reuse": "yes"}, "reuse"),
        ({"question": "?", "timeout_s": "0.5"}, "timeout_s"),
        ({"question": "?", "response_format": '{"type": "xml"}'}, "response_format"),
    ],
)
def test_a_wrong_field_is_named(http: httpx2.Client, form: dict[str, Any], param: str) -> None:
    reply = http.post(PATH, data=form, files=upload("teal"))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


@pytest.mark.parametrize(
    "request_",
    [
        {"data": {"question": "?"}, "files": [("other", ("a.png", b"x", "image/png"))]},
        {"data": {"question": "?"}, "files": [("image", ("a.png", b"no image", "image/png"))]},
        {"data": {"question": "?", "image": "file:/etc/hostname"}},
        {"data": {"question": "?"}},
        {"json": {"question": "?", "image": 5}},
        {"json": ["question"]},
        {"json": {"question": "?", "image": image_url(), "max_tokens": "5"}},
        {"json": {"question": "?", "image": image_url(), "reuse": 1}},
        {"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"", "headers": {"content-type": "multipart/form-data"}},
        {"data": {"question": "?", "response_format": "{"}, "files": upload("teal")},
        {"data": {"question": "?"}, "files": upload(*["teal"] * 65)},
        {"data": {"question": "?" * (4 * 2**20 + 1)}, "files": upload("teal")},
    ],
)
def test_what_is_no_question_about_images_is_refused(http: httpx2.Client, request_: dict[str, Any]) -> None:
    reply = http.post(PATH, **request_)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_another_content_type_is_refused(http: httpx2.Client) -> None:
    assert http.post(PATH, content=b"?", headers={"content-type": "text/plain"}).status_code == 415


def test_a_question_may_be_answered_later(http: httpx2.Client) -> None:
    reply = http.post(PATH, data={"question": "?"}, files=upload("teal"), headers={"prefer": "respond-async"})
    assert reply.status_code == 202
    assert http.get(reply.headers["location"], params={"wait": 20}).json()["status"] == "completed"
