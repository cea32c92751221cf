"""Images from object stores, through obstore.

Credentials and regions are those that obstore reads from the environment, as the stores' own tools do: AWS_*, GOOGLE_*,
AZURE_*, and a machine's own role. `oss` (Alibaba) is read by its S3 API: OSS_ENDPOINT, OSS_ACCESS_KEY_ID,
OSS_ACCESS_KEY_SECRET, OSS_SECURITY_TOKEN and OSS_REGION.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store, from_url

from vqa.errors import BadImage
from vqa.fetch.magic import HEAD, is_visual
from vqa.fetch.prefixes import ObjectAddress
from vqa.fetch.response import no_visual, too_large
from vqa.fetch.retry import Transient
from vqa.object_store import allows_http, runs_here

if TYPE_CHECKING:
    # in the library's stubs only
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

#: one request's own repeats are few: whoever calls this repeats it, too
_RETRIES: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=20)}


class BucketImages:
    """Reads images from object stores; one connection pool for each bucket."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._stores: dict[tuple[str, str], ObjectStore] = {}

    async def get(self, address: ObjectAddress) -> bytes:
        """Return the object's bytes. Raises BadImage, or Transient if another attempt may succeed.

        Messages name the bucket alone.
        """
        try:
            return await self._read(address)
        except (NotFoundError, FileNotFoundError):
            raise BadImage(f"{address}: there is no such object") from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise BadImage(f"{address}: the credentials of this process do not allow reading the object") from None
        except InvalidPathError:
            raise BadImage(f"{address}: the object's key is not valid") from None
        except (BaseError, OSError):
            raise Transient(f"{address}: the object store does not answer as it should") from None

    async def _read(self, address: ObjectAddress) -> bytes:
        if not runs_here():
            raise BadImage(f"{address}: object stores cannot be read in a process forked after their first use")
        found = await obstore.get_async(self._store(address), address.key)
        if found.meta["size"] > self._max_bytes:
            raise too_large(str(address), self._max_bytes)
        data = bytearray()
        async for piece in found.stream(min_chunk_size=64 * 2**10):
            begins = len(data) < HEAD
            data += memoryview(piece)
            if len(data) > self._max_bytes:
                raise too_large(str(address), self._max_bytes)
            if begins and not is_visual(data):
                raise no_visual(str(address))
        if not is_visual(data):
            raise no_visual(str(address))
        return bytes(data)

    def _store(self, address: ObjectAddress) -> ObjectStore:
        known = (address.scheme, address.bucket)
        if known not in self._stores:
            self._stores[known] = self._open(address)
        return self._stores[known]

    def _open(self, address: ObjectAddress) -> ObjectStore:
        limit, connect = (f"{round(seconds * 1000)}ms" for seconds in (self._timeout_s, min(10.0, self._timeout_s)))
        options: ClientConfig = {"timeout": limit, "connect_timeout": connect, "allow_http": allows_http(os.environ)}
        if address.scheme == "oss":
            config = oss_config(address.bucket, os.environ)
            options["allow_http"] = str(config.get("endpoint", "")).startswith("http://")
            return S3Store(address.bucket, config=config, client_options=options, retry_config=_RETRIES)
        return from_url(str(address), client_options=options, retry_config=_RETRIES)


def oss_config(bucket: str, environment: Mapping[str, str]) -> S3Config:
    """Return S3's settings for a bucket of Alibaba's OSS. Raises BadImage without OSS_ENDPOINT.

    OSS takes only requests whose host names the bucket; an endpoint that is an address or a name without a dot, such
    as a test's, gets it in the path instead.
    """
    endpoint = environment.get("OSS_ENDPOINT", "")
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if not parts.hostname:
        raise BadImage(f"oss://{bucket}: OSS_ENDPOINT is not set, such as oss-cn-hangzhou.aliyuncs.com")
    in_host = "." in parts.hostname and not parts.hostname.rpartition(".")[2].isdigit()
    config: S3Config = {
        "endpoint": f"{parts.scheme}://{f'{bucket}.' if in_host else ''}{parts.netloc}",
        "virtual_hosted_style_request": in_host,
        "region": environment.get("OSS_REGION") or parts.hostname.partition(".")[0].removeprefix("oss-"),
    }
    if key := environment.get("OSS_ACCESS_KEY_ID"):
        config["access_key_id"] = key
    if secret := environment.get("OSS_ACCESS_KEY_SECRET"):
        config["secret_access_key"] = secret
    if token := environment.get("OSS_SECURITY_TOKEN"):
        config["session_token"] = token
    return config
