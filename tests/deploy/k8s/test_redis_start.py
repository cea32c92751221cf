"""The script that starts Redis in its pod, with a real server."""

import os
import subprocess
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from producer.demo.redis_server import find_server, free_port
from tests.deploy.k8s.manifests import EXAMPLE, FOLDER

SCRIPT = FOLDER / "base" / "start-redis.sh"
PASSWORD = "0123456789abcdef0123"
_PLACEHOLDER = (EXAMPLE / "secrets.env.example").read_text().partition("\nREDIS_PASSWORD=")[2].splitlines()[0]


def environment(password: str, configuration: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "REDIS_PASSWORD": password, "REDIS_CONF": str(configuration)}


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        pytest.param(_PLACEHOLDER, "letters and digits only", id="placeholder"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("0123456789abcde", "fewer than 16", id="short"),
        pytest.param("0123456789abcdef/@", "letters and digits only", id="breaks-a-url"),
    ],
)
def test_a_bad_password_stops_it_with_what_to_do(password: str, reason: str, tmp_path: Path) -> None:
    command = ["sh", str(SCRIPT)]
    variables = environment(password, tmp_path / "none")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 64
    assert reason in done.stderr
    assert "openssl rand -hex 24" in done.stderr
    assert password in ("", _PLACEHOLDER) or password not in done.stderr


def test_redis_asks_for_the_password_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "redis.conf"
    text = (FOLDER / "base" / "redis.conf").read_text().replace("dir /data", f"dir {tmp_path}")
    configuration.write_text(f"{text}\nport {port}\nbind 127.0.0.1\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(find_server())
    variables = environment(PASSWORD, configuration)
    variables["PATH"] = f"{tmp_path / 'bin'}:{variables['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["sh", str(SCRIPT)], env=variables, stdout=log, stderr=log)
    try:
        again = Retry(ConstantBackoff(0.1), 600)
        with redis.Redis(port=port, password=PASSWORD, retry=again, decode_responses=True) as connection:
            assert connection.ping()
            assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert connection.config_get("appendonly") == {"appendonly": "yes"}
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert PASSWORD not in Path(f"/proc/{server.pid}/cmdline").read_text()
    finally:
        server.terminate()
        assert server.wait(60) == 0
