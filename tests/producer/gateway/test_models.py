import httpx2

from producer.gateway.chat.echo_models import TEST_MODELS


def test_models_of_ready_workers_are_listed(http: httpx2.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert [name for name in names if name not in TEST_MODELS]
    assert set(TEST_MODELS) < set(names)


def test_one_model_is_looked_up_by_its_name(http: httpx2.Client) -> None:
    [first, *_] = http.get("/v1/models").json()["data"]
    assert http.get(f"/v1/models/{first['id']}").json() == first
    reply = http.get("/v1/models/another/model")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
