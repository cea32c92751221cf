from pathlib import Path
from typing import Any

import pytest
from celery.backends.redis import RedisBackend, SentinelBackend
from flower.utils.broker import Broker

from vqa import SettingsError
from vqa.address import Address, Credentials
from vqa.celery import make_app
from vqa.settings import QueueSettings

SECRET = "s3cret"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.touch()
    return path


def test_the_shortest_address_is_the_first_database_without_a_password() -> None:
    address = Address.parse("redis://queue.example")
    assert (address.hosts, address.options()) == ((("queue.example", 6379),), {"db": 0})


def test_user_password_port_and_number_are_read_as_they_were_meant() -> None:
    address = Address.parse("redis://a%40b:p%2F%3A%3F%23%25@[::1]:7000/3")
    assert address.hosts == (("::1", 7000),)
    assert address.options() == {"db": 3, "username": "a@b", "password": "p/:?#%"}


def test_tls_checks_the_certificate_unless_it_is_told_not_to(authority: Path) -> None:
    assert Address.parse("rediss://host").options() == {"db": 0, "ssl": True, "ssl_cert_reqs": "required"}
    own = Address.parse(f"rediss://host?ssl_ca_certs={authority}&ssl_check_hostname=false").options()
    assert (own["ssl_ca_certs"], own["ssl_cert_reqs"], own["ssl_check_hostname"]) == (str(authority), "required", False)
    assert Address.parse("rediss://host?ssl_cert_reqs=none").options()["ssl_cert_reqs"] == "none"


def test_sentinels_have_a_master_and_passwords_of_their_own() -> None:
    address = Address.parse("sentinel://:pw@one;two:7001/2?master=vqa&sentinel_user=me&sentinel_password=their%26s")
    assert address.hosts == (("one", 26379), ("two", 7001))
    assert address.master == "vqa"
    assert address.options() == {"db": 2, "password": "pw"}
    assert address.sentinel_options() == {"username": "me", "password": "their&s"}


def test_what_is_said_of_an_address_holds_no_password() -> None:
    urls = [f"redis://u:{SECRET}@h:1", f"sentinel://:{SECRET}@h:1;[::2]:3?master=m&sentinel_password={SECRET}"]
    addresses = [Address.parse(url) for url in urls]
    assert [address.where for address in addresses] == [
        "Redis at h:1",
        "Redis master m (Sentinel at h:1, [::2]:3)",
    ]
    assert SECRET not in "".join(map(repr, addresses))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:6379", "redis://"),
        ("http://localhost", "redis://"),
        (f"amqp://user:{SECRET}@host:5672//", "amqp:// names RabbitMQ, which vqa cannot use: .*; write redis://"),
        (f"amqps://user:{SECRET}@host//", "amqps:// names RabbitMQ"),
        ("redis:///0", "host"),
        ("redis://[::1/0", "IPv6"),
        ("redis://host:port/0", "host"),
        ("redis://host:99999/0", "host"),
        ("redis://host/zero", "number"),
        ("redis://host/0/1", "number"),
        ("redis://host/0#1", "number"),
        ("rediss://host/0?ssl", "name=value"),
        ("redis://one;two/0", "sentinel://"),
        (f"redis://{SECRET}@host/0", "password"),
        (f"redis://user:{SECRET}/s3cret@host/0", "host"),
        (f"redis://user:{SECRET}#s3cret@host/0", "host"),
        (f"redis://user:{SECRET}?s3cret@host/0", "host"),
        ("redis://host/0?master=vqa", "master does not go with"),
        ("redis://host/0?ssl_cert_reqs=none", "ssl_cert_reqs does not go with"),
        (f"redis://host/0?{SECRET}=1", "unknown option"),
        ("rediss://host/0?ssl_ca_certs=/nowhere/ca.pem", "no file /nowhere/ca.pem"),
        ("rediss://host/0?ssl_cert_reqs=maybe", "required or none"),
        ("rediss://host/0?ssl_cert_reqs=none&ssl_cert_reqs=required", "twice"),
        ("sentinel://host/0", r"\?master=NAME"),
        ("sentinel://host/0?master=", r"\?master=NAME"),
        ("sentinel://host/vqa", r"\?master=NAME"),
        ("sentinel://one;/0?master=vqa", "host"),
        ("sentinel://one;sentinel://two/0?master=vqa", "host"),
        ("sentinel://host/0?master=vqa&ssl_cert_reqs=none", "ssl_cert_reqs does not go with"),
    ],
)
def test_a_wrong_address_is_refused_by_its_mistake_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("VQA_REDIS_URL", url)
    with pytest.raises(SettingsError, match=f"VQA_REDIS_URL: .*{said}") as caught:
        QueueSettings()
    assert SECRET not in str(caught.value)


def _flowers_options(settings: QueueSettings) -> dict[str, Any]:
    """What Flower's page of queues connects with, as Flower itself makes it from the app's settings."""
    conf = make_app(settings).conf
    options = {"broker_options": conf.broker_transport_options, "broker_use_ssl": conf.broker_use_ssl}
    broker = Broker(make_app(settings).connection().as_uri(include_password=True), **options)
    return dict(broker.redis.connection_pool.connection_kwargs)


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("redis://u:p%2F@host:7000/3", RedisBackend),
        ("rediss://u:p%2F@host:7000/3", RedisBackend),
        ("sentinel://u:p%2F@one:7000;two:7001/3?master=vqa", SentinelBackend),
        ("sentinels://u:p%2F@one:7000;two:7001/3?master=vqa", SentinelBackend),
    ],
)
def test_celery_and_flower_are_told_the_same(url: str, backend: type[RedisBackend]) -> None:
    settings = QueueSettings(redis_url=url)
    app = make_app(settings)
    assert isinstance(app.backend, backend)
    connection = app.connection_for_write()
    password = settings.address.credentials.password
    assert (connection.userid, connection.password, connection.virtual_host) == ("u", password, "3")
    parameters = app.backend.connparams
    assert (parameters["username"], parameters["password"], parameters["db"]) == ("u", password, 3)
    secure = settings.address.tls is not None
    assert bool(connection.ssl) is ("connection_class" in parameters) is secure
    flowers = _flowers_options(settings)
    assert (flowers["username"], flowers["password"]) == ("u", password)


def test_a_user_without_a_name_has_the_password_alone() -> None:
    assert Credentials(password="p").options() == {"password": "p"}


def test_variables_of_another_celery_app_in_the_process_are_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "amqp://elsewhere//")
    app = make_app(QueueSettings(redis_url="redis://host:7000/3"))
    connections = [app.connection_for_read(), app.connection_for_write(), app.connection()]
    assert {(each.transport_cls, each.hostname, each.port) for each in connections} == {("redis", "host", 7000)}
    assert isinstance(app.backend, RedisBackend)
    assert app.backend.connparams["port"] == 7000
