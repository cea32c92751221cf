"""A version comes from git's tags, and from elsewhere where there is no git."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.package.conftest import ROOT

#: what the backend needs to tell the version
CONFIGURATION = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree without git."""
    for name in CONFIGURATION:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def git(tree: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=tree, check=True, capture_output=True)


def version(tree: Path, **variables: str) -> str:
    command = [sys.executable, "-m", "hatchling", "version"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SETUPTOOLS_SCM", "GIT_"))}
    environment |= {"GIT_CEILING_DIRECTORIES": str(tree.parent), **variables}
    told = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, env=environment)
    return told.stdout.strip()


def test_a_tagged_commit_has_the_tag_s_version_and_later_ones_lead_to_the_next(tree: Path) -> None:
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "Begin")
    git(tree, "tag", "v1.2.0")
    assert version(tree) == "1.2.0"
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "Go on")
    assert version(tree) == "1.2.1.dev1"


def test_a_tree_without_git_has_the_version_of_nothing(tree: Path) -> None:
    assert version(tree) == "0.0.0"


def test_a_source_distribution_knows_its_version(tree: Path) -> None:
    (tree / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: vqa-queue\nVersion: 1.4.0\n")
    assert version(tree) == "1.4.0"


def test_a_build_of_an_image_is_told_its_version(tree: Path) -> None:
    assert version(tree, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VQA_QUEUE="1.3.0") == "1.3.0"
    assert "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VQA_QUEUE=${VERSION}" in (ROOT / "Dockerfile").read_text()
