from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vqa.images.stores.bucket_server import BucketServer


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """A bucket at s3://images."""
    with BucketServer() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["redis", "folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where images are kept: each place in turn."""
    if request.param == "bucket":
        request.getfixturevalue("bucket")
    return {"redis": None, "folder": f"file://{tmp_path}/images", "bucket": "s3://images/jobs"}[request.param]
