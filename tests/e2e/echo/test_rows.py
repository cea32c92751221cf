"""What a row of a batch may be."""

from pathlib import Path

from PIL import Image

from producer import Client, Job

WAIT_S = 60.0


def test_images_and_jobs_are_rows_too(client: Client, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    batch = client.batches.create(
        [
            {"custom_id": "one", "image": tmp_path / "red.png", "question": "What colour?"},
            Job(id="two", messages=[{"role": "user", "content": "And you?"}]),
        ],
        max_new_tokens=7,
    )

    records = {each["custom_id"]: each for each in batch.records(WAIT_S)}
    assert records.keys() == {"one", "two"}
    assert all(record["text"].startswith("echo:") for record in records.values())
    assert not any(record["error"] for record in records.values())
