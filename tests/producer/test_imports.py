"""What importing a producer brings with it, each in a fresh interpreter."""

import subprocess
import sys

import pytest

import producer
import vqa


def imported(statement: str) -> set[str]:
    """The top-level modules that are there after the statement."""
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement", ["import producer", "from producer import Client, AsyncClient, Job", "import producer.bulk.submit"]
)
def test_a_producer_imports_no_model_and_no_terminal(statement: str) -> None:
    assert not imported(statement) & {"torch", "transformers", "numpy", "typer", "rich", "workers"}


def test_the_command_starts_without_the_queue() -> None:
    assert not imported("import producer.cli.main") & {"celery", "kombu", "redis", "pydantic", "PIL"}


def test_the_parent_of_several_gateway_processes_imports_no_server() -> None:
    assert not imported("import producer.gateway.process.run") & {"fastapi", "uvicorn", "limits", "celery"}


def test_whatever_vqa_offers_is_offered_by_producer() -> None:
    assert set(vqa.__all__) < set(producer.__all__)
    for name in producer.__all__:
        assert getattr(producer, name) is not None
    assert producer.Job is vqa.Job
    assert dir(producer) == sorted(producer.__all__)
    with pytest.raises(AttributeError):
        producer.Nothing  # noqa: B018
