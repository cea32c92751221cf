"""What the settings allow: decides from an address alone, and connects to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vqa.errors import BadImage
from vqa.fetch.files import file_path, is_file_url
from vqa.fetch.hosts import AllowedHosts
from vqa.fetch.prefixes import AllowedBuckets, ObjectAddress, parse_object_address
from vqa.fetch.settings import FetchSettings
from vqa.fetch.url import WebAddress, parse_web_address
from vqa.jobs.message import is_url
from vqa.net.public import is_local_host


@dataclass(frozen=True, slots=True)
class FilePath:
    """A file of this machine."""

    path: str


Address = WebAddress | ObjectAddress | FilePath


@dataclass(frozen=True, slots=True)
class Rules:
    """The allow-lists of FetchSettings."""

    hosts: AllowedHosts
    buckets: AllowedBuckets
    private: bool

    @classmethod
    def from_settings(cls, settings: FetchSettings) -> Self:
        return cls(AllowedHosts.parse(settings.hosts), AllowedBuckets.parse(settings.buckets), settings.private)

    def parse(self, url: str) -> Address:
        """Return the address, if it is allowed; whether a file is, is known once it is open. Raises BadImage."""
        if is_file_url(url):
            return FilePath(file_path(url))
        if not is_url(url):
            raise BadImage("the image's address has none of the schemes https, http, s3, gs, az, oss and file")
        if url[:4].lower() == "http":
            address = parse_web_address(url)
            self.check(address)
            return address
        found = parse_object_address(url)
        self.buckets.check(found)
        return found

    def check(self, address: WebAddress) -> None:
        """Raises BadImage if the address is not allowed; what its name resolves to is checked on connecting."""
        self.hosts.check(address)
        if not self.private and is_local_host(address.host):
            raise BadImage(f"{address.host}: its address is not public (VQA_FETCH_PRIVATE)")
