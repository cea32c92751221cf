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


def test_while_no_worker_was_given_a_name_a_request_may_name_whatever_it_likes(http: httpx2.Client) -> None:
    loaded = [model["id"] for model in http.get("/v1/models").json()["data"] if model["id"] not in TEST_MODELS]
    body = {"model": "gpt-9", "messages": [{"role": "user", "content": "?"}]}
    assert [http.post("/v1/chat/completions", json=body).json()["model"]] == loaded
