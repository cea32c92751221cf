"""The demo's server of images: over https where there is openssl, else over http."""

from pathlib import Path

import pytest

from producer.demo.image_server import image_server, installed
from producer.images.reader import ImageReader
from vqa.errors import BadImage
from vqa.settings import QueueSettings


@pytest.fixture
def folder(tmp_path: Path, png: bytes) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "teal.png").write_bytes(png)
    return folder


def test_its_client_fetches_over_https(folder: Path, png: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert installed()
    with image_server(folder) as server:
        assert server.url.startswith("https://127.0.0.1:")
        reader = ImageReader(QueueSettings(), server.fetch_settings)
        with server.trusted():
            assert reader.read(f"{server.url}/teal.png") == png
        reader.close()
        # nobody else trusts it
        other = ImageReader(QueueSettings(), server.fetch_settings.model_copy(update={"timeout_s": 1.0}))
        with pytest.raises(BadImage, match="not trusted"):
            other.read(f"{server.url}/teal.png")
        other.close()
    assert capfd.readouterr() == ("", "")


def test_without_openssl_it_is_http(folder: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with image_server(folder) as server:
        assert server.url.startswith("http://127.0.0.1:")
        reader = ImageReader(QueueSettings(), server.fetch_settings)
        with server.trusted():
            assert reader.read(f"{server.url}/teal.png") == png
        reader.close()
