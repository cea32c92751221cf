"""The manifests of deploy/k8s, as their kustomizations list them."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.worker_process import ROOT

FOLDER = ROOT / "deploy" / "k8s"
EXAMPLE = FOLDER / "example"
#: on PATH or not: Debian's is too old for components
KUBECTL = shutil.which("kubectl")


def kustomizations() -> dict[str, dict[str, Any]]:
    """Return the kustomizations by the names of their folders."""
    return {path.parent.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*/kustomization.yaml"))}


def listed(name: str) -> Iterator[Path]:
    """Yield the files that a kustomization names, folders left out."""
    found = kustomizations()[name]
    for path in found.get("resources", []):
        if not path.startswith("../"):
            yield FOLDER / name / path
    for generator in found.get("configMapGenerator", []) + found.get("secretGenerator", []):
        for path in generator.get("files", []) + [f"{each}.example" for each in generator.get("envs", [])]:
            yield FOLDER / name / path


def _objects() -> dict[str, dict[str, Any]]:
    found = {}
    for name in kustomizations():
        for path in listed(name):
            if path.suffix == ".yaml":
                for each in yaml.safe_load_all(path.read_text()):
                    found[f"{each['kind']}-{each['metadata']['name']}"] = each
    return found


#: each object, by kind and name
OBJECTS: Mapping[str, dict[str, Any]] = _objects()
#: pods' templates, by what makes them
PODS: Mapping[str, dict[str, Any]] = {
    name: each["spec"]["template"] for name, each in OBJECTS.items() if "template" in each.get("spec", {})
}


def container(pod: str) -> dict[str, Any]:
    [found] = PODS[pod]["spec"]["containers"]
    return dict(found)


def values(pod: str) -> dict[str, str]:
    """Return the variables of a pod's container that have a value in the manifest."""
    return {each["name"]: each["value"] for each in container(pod).get("env", []) if "value" in each}


def build(folder: Path) -> list[dict[str, Any]]:
    """Return what `kubectl kustomize` makes of a folder."""
    assert KUBECTL is not None
    command = [KUBECTL, "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    return [*yaml.safe_load_all(made.stdout)]
