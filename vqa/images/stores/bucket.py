"""Images in an object store: s3://, gs://, az://, through obstore (extra `fetch`).

Credentials come from the store's own variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from vqa.errors import SettingsError
from vqa.images.stores.contents import StoreUnavailable
from vqa.object_store import allows_http, runs_here

try:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import from_url
except ImportError:
    raise SettingsError("VQA_IMAGES_URL: a bucket needs obstore; install vqa-queue[fetch]") from None

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CONNECT_S = 5.0


class Bucket:
    """Blobs in the bucket of a URL; a request, with its repetitions, takes at most about `timeout_s`.

    Raises SettingsError if the URL is not one of a bucket.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        seconds = f"{max(1, round(timeout_s / 2))}s"
        connect = f"{min(_CONNECT_S, max(1, timeout_s / 2)):.0f}s"
        options: ClientConfig = {"timeout": seconds, "connect_timeout": connect, "allow_http": allows_http(os.environ)}
        retry: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=timeout_s / 2)}
        try:
            self._store = from_url(url, client_options=options, retry_config=retry)
        except (BaseError, ValueError, TypeError, OSError) as error:
            # its messages go on with details of its own code
            reason = str(error).partition("\n")[0][:200]
            raise SettingsError(f"VQA_IMAGES_URL: {reason or type(error).__name__}") from None

    def put(self, name: str, data: bytes) -> None:
        with self._bucket_errors():
            obstore.put(self._store, name, data, use_multipart=False)

    def get(self, name: str) -> bytes | None:
        with self._bucket_errors(), suppress(FileNotFoundError):
            return bytes(obstore.get(self._store, name).bytes())
        return None

    def size(self, name: str) -> int | None:
        with self._bucket_errors(), suppress(FileNotFoundError):
            return int(obstore.head(self._store, name)["size"])
        return None

    def delete(self, name: str) -> None:
        with self._bucket_errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def tidy(self) -> None:
        """Do nothing: an object is there whole or not at all."""

    @contextmanager
    def _bucket_errors(self) -> Iterator[None]:
        if not runs_here():
            raise StoreUnavailable(
                "the bucket of images (VQA_IMAGES_URL) cannot be used in a process forked after its first use; "
                "make the client after the fork, or start processes by spawn"
            )
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreUnavailable("the bucket of images (VQA_IMAGES_URL) refuses the credentials") from error
        except (BaseError, OSError) as error:
            reason = type(error).__name__
            raise StoreUnavailable(f"the bucket of images (VQA_IMAGES_URL) failed: {reason}") from error
