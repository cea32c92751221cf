"""The manifests against the schemas of Kubernetes and KEDA; no cluster has run them."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.k8s import keda
from tests.deploy.k8s.manifests import EXAMPLE, FOLDER, KUBECTL, OBJECTS, build, kustomizations, listed
from tests.worker_process import ROOT

#: the oldest and the newest that docs/kubernetes.md names
RELEASES = ("1.29", "1.37")
SCALED = OBJECTS["ScaledObject-worker"]
#: of other programs than Kubernetes
FOREIGN = ("keda.sh/", "monitoring.coreos.com/")
NATIVE = {name: each for name, each in OBJECTS.items() if not each["apiVersion"].startswith(FOREIGN)}


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_knows_every_field(release: str) -> None:
    wrong = {}
    for name, each in NATIVE.items():
        try:
            kubernetes_validate.validate(each, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong[name] = error.message
    assert not wrong


def test_a_field_that_kubernetes_does_not_know_is_refused() -> None:
    wrong = copy.deepcopy(OBJECTS["Deployment-worker"])
    wrong["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["periodSecond"] = 30
    with pytest.raises(kubernetes_validate.ValidationError, match="periodSecond"):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


@pytest.mark.parametrize("name", [name for name in OBJECTS if name.startswith("ScaledObject-")])
def test_keda_knows_every_field(name: str) -> None:
    keda.check(OBJECTS[name])
    for release in RELEASES:
        kubernetes_validate.validate(keda.autoscaler(OBJECTS[name]), release, strict=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("threshold", 32, id="number"),
        pytest.param("treshold", "32", id="misspelt"),
        pytest.param("query", "", id="empty"),
    ],
)
def test_what_keda_would_refuse_is_refused(field: str, value: object) -> None:
    wrong = copy.deepcopy(SCALED)
    wrong["spec"]["triggers"][0]["metadata"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        keda.check(wrong)


def test_every_object_is_of_kubernetes_or_checked_otherwise() -> None:
    others = {name for name in OBJECTS if name not in NATIVE}
    # pod monitors: test_manifests.py
    scaled = {"ScaledObject-worker", "ScaledObject-worker-chat", "ScaledObject-worker-small"}
    assert others == scaled | {"PodMonitor-vqa-workers", "PodMonitor-vqa-queue"}


@pytest.mark.parametrize("name", kustomizations())
def test_a_kustomization_names_every_file_of_its_folder(name: str) -> None:
    found = {path for path in (FOLDER / name).iterdir() if path.suffix != ".env"}
    assert {*listed(name)} == found - {FOLDER / name / "kustomization.yaml"}


def test_every_folder_that_the_example_names_is_a_kustomization() -> None:
    text = (EXAMPLE / "kustomization.yaml").read_text()
    named = {line.rpartition("../")[2] for line in text.splitlines() if "- ../" in line}
    assert named == {*kustomizations()} - {"example"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of all, with the example's files filled in."""
    shutil.copytree(FOLDER, tmp_path / "k8s")
    example = tmp_path / "k8s" / "example"
    for path in example.glob("*.env.example"):
        shutil.copy(path, path.with_suffix(""))
    return example


def _blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)


def _made(made: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in made if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def _environment(made: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    found = _made(made, kind, name)
    return {each["name"]: each for each in found["spec"]["template"]["spec"]["containers"][0]["env"]}


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
class TestKustomize:
    def test_the_example_builds_and_fits_the_schemas(self, folder: Path) -> None:
        made = build(folder)
        # KEDA alone says how many
        worker = _made(made, "Deployment", "worker")
        # what the tests above have not seen
        generated = [each for each in made if each["kind"] in ("ConfigMap", "Secret")]
        assert len(generated) == 3
        for each in [worker, *generated]:
            kubernetes_validate.validate(each, RELEASES[-1], strict=True)
        assert "replicas" not in worker["spec"]
        assert {each["metadata"].get("namespace", "vqa") for each in made} == {"vqa"}

    def test_without_secrets_nothing_is_made(self, folder: Path) -> None:
        (folder / "secrets.env").unlink()
        with pytest.raises(AssertionError, match=r"secrets\.env"):
            build(folder)

    def test_a_redis_elsewhere_replaces_ours(self, folder: Path) -> None:
        kustomization = folder / "kustomization.yaml"
        text = kustomization.read_text().replace("# - ../external-redis", "- ../external-redis")
        kustomization.write_text(text.replace("# - ../ingress", "- ../ingress"))
        made = build(folder)
        kinds = {each["kind"] for each in made}
        assert "StatefulSet" not in kinds
        assert "Ingress" in kinds
        for name in ("worker", "gateway", "metrics"):
            environment = _environment(made, "Deployment", name)
            assert "REDIS_PASSWORD" not in environment
            assert environment["VQA_REDIS_URL"]["valueFrom"]["secretKeyRef"]["key"] == "VQA_REDIS_URL"

    def test_a_second_model_has_workers_and_a_scaled_object_of_its_own(self, folder: Path) -> None:
        # as the document says
        worker = (FOLDER / "base" / "worker.yaml").read_text()
        worker = worker.replace("\n  name: worker\n", "\n  name: worker-small\n")
        worker = worker.replace("vqa-queue/model: default", "vqa-queue/model: small")
        (folder / "worker-small.yaml").write_text(worker.replace("name: vqa-worker}", "name: vqa-worker-small}"))
        (folder / "worker-small.env").write_text("VQA_MODEL=m\nVQA_SERVED_NAME=small\nVQA_UNNAMED_JOBS=0\n")
        kustomization = folder / "kustomization.yaml"
        text = kustomization.read_text().replace("  - ../keda\n", "  - ../keda-models\n")
        text = text.replace("  - ../base\n", "  - ../base\n  - worker-small.yaml\n", 1)
        kustomization.write_text(text + "  - name: vqa-worker-small\n    envs: [worker-small.env]\n")
        made = build(folder)
        scaled = [each for each in made if each["kind"] == "ScaledObject"]
        assert {each["spec"]["scaleTargetRef"]["name"] for each in scaled} == {"worker", "worker-small"}
        for each in scaled:
            keda.check(each)
            deployment = _made(made, "Deployment", each["spec"]["scaleTargetRef"]["name"])
            kubernetes_validate.validate(deployment, RELEASES[-1], strict=True)
            assert "replicas" not in deployment["spec"]
        [source] = _made(made, "Deployment", "worker-small")["spec"]["template"]["spec"]["containers"][0]["envFrom"]
        assert source["configMapRef"]["name"].startswith("vqa-worker-small-")

    @pytest.mark.parametrize("block", [pytest.param("hostPath", id="folder"), pytest.param("replicas:", id="replicas")])
    def test_what_the_document_adds_to_a_kustomization_works(self, block: str, folder: Path) -> None:
        [found] = [each for each in _blocks() if block in each]
        kustomization = folder / "kustomization.yaml"
        kustomization.write_text(kustomization.read_text().replace("  - ../keda\n", "") + found)
        worker = _made(build(folder), "Deployment", "worker")
        volumes = {each["name"]: each for each in worker["spec"]["template"]["spec"]["volumes"]}
        assert ("hostPath" in volumes["models"], worker["spec"]["replicas"]) in {(True, 1), (False, 4)}
        kubernetes_validate.validate(worker, RELEASES[-1], strict=True)
