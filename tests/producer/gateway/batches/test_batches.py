"""/v1/batches with the official client, against a real gateway and an echo worker."""

from typing import Any

import httpx2
import pytest
from openai import BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError

from tests.producer.gateway.batches.conftest import OVER, BatchClient, counts
from tests.producer.gateway.batches.inputs import PIXEL, row, rows_file


def text(line: dict[str, Any]) -> Any:
    return line["response"]["body"]["choices"][0]["message"]["content"]


def test_a_batch_goes_from_its_file_to_its_output(batches: BatchClient) -> None:
    data = rows_file(row(n, f"question {n}") for n in range(700))
    batch = batches.create(data, metadata={"project": "x"})

    assert (batch.object, batch.endpoint, batch.metadata) == ("batch", "/v1/chat/completions", {"project": "x"})
    assert batch.status in ("validating", "in_progress")
    assert batch.expires_at is not None
    assert abs(batch.expires_at - batch.created_at - 86_400) <= 1
    batch = batches.ended(batch)
    assert batch.status == "completed"
    assert counts(batch) == (700, 700, 0)
    assert batch.usage is not None
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 700
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert batch.error_file_id is None
    output = batches.lines(batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"row-{n}" for n in range(700)]
    assert len({text(line) for line in output}) == 700
    assert {(line["response"]["status_code"], line["error"]) for line in output} == {(200, None)}
    assert batch.output_file_id is not None
    file = batches.openai.files.retrieve(batch.output_file_id)
    content = batches.openai.files.content(batch.output_file_id).read()
    assert (file.purpose, file.bytes) == ("batch_output", len(content))
    assert content == batches.openai.files.content(batch.output_file_id).read()


def test_when_a_batch_ends_is_predicted(batches: BatchClient, http: httpx2.Client) -> None:
    slow = [row(n, "q", metadata={"echo_delay_s": "1"}) for n in range(40)]
    batch = batches.create(rows_file(slow), completion_window="2h")
    seen = []
    while batches.openai.batches.retrieve(batch.id).status not in OVER:
        seen.append(http.get(f"/v1/batches/{batch.id}").json()["vqa"]["prediction"])
    assert http.get(f"/v1/batches/{batch.id}").json()["vqa"]["prediction"] is None
    known = [each for each in seen if each and each["ends_at"]]
    assert all(each["in_time"] and each["unknown"] is None for each in known)
    assert {each["unknown"] for each in seen if each and not each["ends_at"]} <= {"rows_unknown", "no_answers"}
    assert seen


def test_rows_that_cannot_be_answered_are_in_the_error_file_alone(batches: BatchClient) -> None:
    bad = [
        row("image", "q", image="data:image/png;base64,bm8gaW1hZ2U="),
        row("path", "q", image="file:/etc/passwd"),
        row("reference", "q", image="sha256:" + "0" * 64),
        row("stored", "q", image="img_e3b0c44298fc_" + "0" * 24),
        row("another", "q", image="img_000000000000_" + "0" * 24),
        row("field", "q", tools=[{"type": "function"}]),
    ]
    batch = batches.ended(batches.create(rows_file([row("good", "q"), *bad, row("last", "q")])))

    assert batch.status == "completed"
    assert counts(batch) == (8, 2, 6)
    assert [line["custom_id"] for line in batches.lines(batch.output_file_id)] == ["row-good", "row-last"]
    errors = {line["custom_id"]: line for line in batches.lines(batch.error_file_id)}
    assert list(errors) == [line["custom_id"] for line in bad]
    codes = {id: line["response"]["body"]["error"]["code"] for id, line in errors.items()}
    assert codes == {
        "row-image": "bad_image",
        "row-path": "bad_image",
        "row-reference": "invalid_job",
        "row-stored": "image_missing",
        "row-another": "image_missing",
        "row-field": "invalid_job",
    }
    assert {line["response"]["status_code"] for line in errors.values()} == {400}
    assert {line["error"] for line in errors.values()} == {None}


def test_a_batch_without_an_answer_has_no_output_file(batches: BatchClient) -> None:
    batch = batches.ended(batches.create(rows_file([row(1, "q", image="data:image/png;base64,eA==")])))

    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(batches.lines(batch.error_file_id)) == 1


def test_rows_may_name_a_stored_image(batches: BatchClient, http: httpx2.Client) -> None:
    stored = http.post("/v1/images", content=PIXEL, headers={"content-type": "image/png"}).json()["id"]
    batch = batches.ended(batches.create(rows_file([row(1, "q", image=stored)])))

    assert batches.lines(batch.output_file_id)[0]["response"]["body"]["vqa"]["images"][0]["source_width"] == 1


def test_test_models_answer_rows_without_a_worker(batches: BatchClient) -> None:
    rows = [row(1, "one", model="batch-test-model"), row(2, "two"), row(3, "three", model="vqa-echo")]
    batch = batches.ended(batches.create(rows_file(rows)))

    output = batches.lines(batch.output_file_id)
    assert [line["response"]["body"]["model"] for line in output][::2] == ["batch-test-model", "vqa-echo"]
    assert [text(line) for line in output][::2] == ["one", "three"]
    assert counts(batch) == (3, 3, 0)


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n\n", "empty_file", None),
        (rows_file([row(1, "q")]) + b"no json\n", "invalid_json_line", 2),
        (b"\xff\xfe\n", "invalid_json_line", 1),
        (b"[" * 100_000 + b"\n", "invalid_json_line", 1),
        (rows_file([row(1, "q"), row(2, "q"), row(1, "q")]), "duplicate_custom_id", 3),
        (rows_file([{**row(1, "q"), "url": "/v1/embeddings"}]), "url_mismatch", 1),
        (rows_file([{"custom_id": "1"}]), "missing_required_parameter", 1),
        (rows_file([{**row(1, "q"), "custom_id": None}]), "missing_required_parameter", 1),
    ],
)
def test_an_input_with_a_flaw_fails_as_a_whole(batches: BatchClient, data: bytes, code: str, line: int | None) -> None:
    batch = batches.ended(batches.create(data))

    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, line)]
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


def test_the_same_key_makes_one_batch(batches: BatchClient) -> None:
    file = batches.openai.files.create(file=("rows.jsonl", rows_file([row(1, "q")])), purpose="batch")

    def create(key: str, window: Any = "24h") -> str:
        return batches.openai.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=window,
            extra_headers={"Idempotency-Key": key},
        ).id  # fmt: skip

    key = file.id
    assert create(key) == create(key) != create(f"{key}-other")
    with pytest.raises(UnprocessableEntityError, match="Idempotency-Key"):
        create(key, "2h")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"completion_window": "31d"}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"metadata": {"x": "y" * 513}}, "metadata"),
        ({"extra_body": {"vqa": {"lane": "fast"}}}, "lane"),
        ({"extra_body": {"vqa": {"webhook": {"url": "https://example.com"}}}}, "webhook"),
        ({"extra_body": {"vqa": {"webhook": {"url": "https://example.com", "late": 1}}}}, "late"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_a_batch_with_an_invalid_field_is_refused(batches: BatchClient, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        batches.create(rows_file([row(1, "q")]), **fields)


def test_ids_of_nobody_are_not_found(batches: BatchClient) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        batches.openai.batches.create(
            input_file_id="file_000000000000_" + "0" * 24, endpoint="/v1/chat/completions", completion_window="24h"
        )
    unknown = "batch_e3b0c44298fc_" + "0" * 24
    for act in (batches.openai.batches.retrieve, batches.openai.batches.cancel):
        with pytest.raises(NotFoundError, match="no batch"):
            act(unknown)
    for id in (f"file_e3b0c44298fc_{'0' * 24}-output", f"file_e3b0c44298fc_{'0' * 24}-errors"):
        for look in (batches.openai.files.retrieve, batches.openai.files.content, batches.openai.files.delete):
            with pytest.raises(NotFoundError, match="no file"):
                look(id)


def test_lists_go_on_after_a_cursor(batches: BatchClient) -> None:
    ids = [batches.create(rows_file([row(1, "q")])).id for _ in range(3)]

    assert [batch.id for batch in batches.openai.batches.list(limit=3).data] == ids[::-1]
    assert [batch.id for batch in batches.openai.batches.list(limit=2, after=ids[2]).data][:2] == ids[1::-1]


def test_output_files_are_listed_and_deleted_as_others(batches: BatchClient) -> None:
    batch = batches.ended(batches.create(rows_file([row(1, "q"), row(2, "q", tools=[1])])))
    ids = {batch.output_file_id, batch.error_file_id}

    assert ids <= {file.id for file in batches.openai.files.list(purpose="batch_output")}
    for id in ids:
        assert id is not None
        batches.openai.files.delete(id)
        with pytest.raises(NotFoundError):
            batches.openai.files.content(id)
    assert not ids & {file.id for file in batches.openai.files.list()}
    batch = batches.openai.batches.retrieve(batch.id)
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


def test_a_batch_that_is_over_cannot_be_cancelled(batches: BatchClient) -> None:
    batch = batches.ended(batches.create(rows_file([row(1, "q")])))

    with pytest.raises(ConflictError, match="is completed"):
        batches.openai.batches.cancel(batch.id)


def test_a_file_that_was_deleted_is_no_input(batches: BatchClient) -> None:
    file = batches.openai.files.create(file=("rows.jsonl", rows_file([row(1, "q")])), purpose="batch")
    batches.openai.files.delete(file.id)
    with pytest.raises(NotFoundError, match="no file"):
        batches.openai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def test_a_request_for_a_batch_is_small(http: httpx2.Client) -> None:
    assert http.post("/v1/batches", json={"metadata": {"x": "y" * 100_000}}).status_code == 413
