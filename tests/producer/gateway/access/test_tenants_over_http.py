"""A key sees what belongs to its tenant, and cannot tell what belongs to another from what does not exist."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from producer.ids import owner_tag
from tests.producer.gateway.access.conftest import Holder, MakeHolder

ROW = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "vqa", "messages": [{"role": "user", "content": "?"}]},
}


def make_job(owner: Holder, png: bytes) -> str:
    return str(owner.ask(later=True).json()["id"])


def make_image(owner: Holder, png: bytes) -> str:
    return str(owner.post("/v1/images", content=png, headers={"Content-Type": "image/png"}).json()["id"])


def make_file(owner: Holder, png: bytes) -> str:
    files = {"file": ("rows.jsonl", json.dumps(ROW).encode()), "purpose": (None, "batch")}
    return str(owner.post("/v1/files", files=files).json()["id"])


def make_batch(owner: Holder, png: bytes) -> str:
    body = {
        "input_file_id": make_file(owner, png),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    return str(owner.post("/v1/batches", json=body).json()["id"])


@dataclass(frozen=True)
class Resource:
    make: Callable[[Holder, bytes], str]
    #: where the owner reads it
    path: str
    #: what else can be done to it, destructive last
    verbs: tuple[tuple[str, str], ...]
    #: where all of a tenant are listed
    listed: str | None = None


RESOURCES = {
    "job": Resource(make_job, "/v1/jobs/{}", (("GET", "/v1/jobs/{}?wait=0.1"), ("DELETE", "/v1/jobs/{}"))),
    "image": Resource(make_image, "/v1/images/{}", (("DELETE", "/v1/images/{}"),)),
    "file": Resource(
        make_file, "/v1/files/{}", (("GET", "/v1/files/{}/content"), ("DELETE", "/v1/files/{}")), "/v1/files"
    ),
    "batch": Resource(make_batch, "/v1/batches/{}", (("POST", "/v1/batches/{}/cancel"),), "/v1/batches"),
}
each_resource = pytest.mark.parametrize("resource", RESOURCES.values(), ids=RESOURCES)


@each_resource
def test_another_tenants_id_is_as_if_it_did_not_exist(holder: MakeHolder, png: bytes, resource: Resource) -> None:
    owner, stranger = holder(), holder()
    id = resource.make(owner, png)
    prefix, _, random = id.split("_")
    unknown = f"{prefix}_{owner_tag(stranger.record.tenant)}_{random}"
    for method, path in (("GET", resource.path), *resource.verbs):
        others, none = (stranger.request(method, path.format(each)) for each in (id, unknown))
        assert others.status_code == none.status_code == 404, (method, path, others.text, none.text)
        assert others.text.replace(id, "") == none.text.replace(unknown, "")
    assert owner.get(resource.path.format(id)).status_code == 200


@each_resource
def test_colleagues_share_what_belongs_to_their_tenant(holder: MakeHolder, png: bytes, resource: Resource) -> None:
    owner = holder()
    colleague = holder(tenant=owner.record.tenant, gateway=1)
    id = resource.make(owner, png)
    assert colleague.get(resource.path.format(id)).json()["id"] == id


@pytest.mark.parametrize("resource", [each for each in RESOURCES.values() if each.listed], ids=["file", "batch"])
def test_a_list_has_only_what_belongs_to_the_tenant(holder: MakeHolder, png: bytes, resource: Resource) -> None:
    owner, stranger = holder(), holder()
    assert resource.listed
    id = resource.make(owner, png)
    assert id in {each["id"] for each in owner.get(resource.listed).json()["data"]}
    assert stranger.get(resource.listed).json()["data"] == []
    # a cursor is an id, too
    assert id not in stranger.get(resource.listed, params={"after": id}).text.replace(f"'{id}'", "")


def test_another_tenants_image_cannot_be_asked_about(holder: MakeHolder, png: bytes) -> None:
    owner, stranger = holder(), holder()
    id = make_image(owner, png)
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": id}}]
    asked = [
        each.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]})
        for each in (owner, stranger)
    ]
    assert asked[0].status_code == 200, asked[0].text
    assert asked[1].status_code in (400, 404), asked[1].text
    form = {"image": (None, id), "question": (None, "?")}
    assert owner.post("/v1/ask", files=form).status_code == 200
    assert stranger.post("/v1/ask", files=form).status_code in (400, 404)


def test_another_tenants_file_cannot_become_a_batch(holder: MakeHolder, png: bytes) -> None:
    owner, stranger = holder(), holder()
    body = {"input_file_id": make_file(owner, png), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert stranger.post("/v1/batches", json=body).status_code in (400, 404)
    assert owner.post("/v1/batches", json=body).status_code == 200


def test_another_tenants_idempotency_key_finds_nothing(holder: MakeHolder) -> None:
    owner, stranger = holder(), holder()
    body = {"messages": [{"role": "user", "content": "?"}]}
    ids = [
        each.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "same"}).json()["id"]
        for each in (owner, owner, stranger)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_record_that_a_caller_uploads_opens_no_file_of_another(holder: MakeHolder, png: bytes) -> None:
    owner, stranger = holder(), holder()
    id = make_file(owner, png)
    forged = owner.get(f"/v1/files/{id}").json()
    record = {name: forged[name] for name in ("id", "bytes", "created_at", "expires_at", "filename", "purpose")}
    files = {"file": ("rows.jsonl", json.dumps(record).encode()), "purpose": (None, "batch")}
    # the key in Redis of the first part of the stranger's file
    name = stranger.post("/v1/files", files=files).json()["id"] + ":0"
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
        assert stranger.get(path).status_code == 404
    body = {"input_file_id": name, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert stranger.post("/v1/batches", json=body).status_code == 404
    assert stranger.delete(f"/v1/files/{name}").status_code == 404
