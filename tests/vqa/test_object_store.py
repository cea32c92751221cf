"""What users of obstore share: a child forked after any of them used it is told by all of them."""

import subprocess
import sys

import pytest

from tests.vqa.images.stores.bucket_server import BucketServer
from tests.worker_process import ROOT
from vqa.object_store import allows_http

_FORKS = """
import os, signal, sys
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.images.stores.bucket import Bucket
from vqa.images.stores.contents import StoreUnavailable
fetcher = Fetcher(FetchSettings(buckets="s3://images"), 1000)
fetcher.fetch("s3://images/a.png")
if not (child := os.fork()):
    signal.alarm(10)
    try:
        Bucket("s3://images", 2).get("ab/cd")
    except StoreUnavailable as error:
        os._exit(0 if "forked" in str(error) else 2)
    finally:
        os._exit(1)
status = os.waitpid(child, 0)[1]
fetcher.close()
sys.exit(status != 0)
"""


def test_a_store_of_images_is_not_used_in_a_child_of_a_process_that_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with BucketServer() as server:
        server.objects["/images/a.png"] = b"\x89PNG\r\n\x1a\n" + bytes(100)
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        subprocess.run([sys.executable, "-c", _FORKS], cwd=ROOT, timeout=30, check=True)


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_a_store_without_tls_needs_a_setting(value: str) -> None:
    assert allows_http({"AZURE_ALLOW_HTTP": value})
    assert not allows_http({"AWS_ALLOW_HTTP": "0"})
