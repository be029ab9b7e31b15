"""The container files, without an engine: they parse, hold nothing open, and take in no patient's data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.env import DVC_SITE_CACHE_DIR
from ruamel.yaml import YAML

CHECKOUT = Path(__file__).parents[1]
DOCKERFILE = CHECKOUT / "docker" / "Dockerfile"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose = YAML(typ="safe").load((CHECKOUT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    return dict(compose["services"])


def instructions(name: str) -> list[str]:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"(?m)^{name}\s+(.+)$", text)


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, "docker/Dockerfile"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


def test_the_base_image_is_the_only_argument() -> None:
    assert [argument.split("=")[0] for argument in instructions("ARG")] == ["BASE_IMAGE"]
    assert {source.split()[0] for source in instructions("FROM")} == {"${BASE_IMAGE}"}


def test_the_image_runs_as_nobody_special_and_reports_its_health() -> None:
    assert instructions("USER") == ["10001"]
    assert len(instructions("HEALTHCHECK")) == 1


def test_the_image_can_tell_the_commit_of_the_mounted_checkout() -> None:
    (install,) = [command for command in instructions("RUN") if "apt-get install" in command]
    assert re.search(r"apt-get install [^&]*\bgit\b", install)
    assert "git config --system --add safe.directory /project" in install
    assert instructions("WORKDIR") == ["/project"]


def test_the_build_sees_only_what_it_copies() -> None:
    ignored = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source.removesuffix("/")
        for copy in instructions("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    }
    assert "*" in ignored
    assert copied == let_in
    assert all((CHECKOUT / name).exists() for name in let_in)


def test_mlflow_answers_this_machine_only(services: dict[str, Any]) -> None:
    assert services["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "--allowed-hosts 'localhost:*,127.0.0.1:*,mlflow:*'" in services["mlflow"]["command"][0]
    assert "ports" not in services["pipeline"]


def test_services_have_no_privileges_and_the_pipeline_waits_for_mlflow(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
    assert services["pipeline"]["depends_on"]["mlflow"]["condition"] == "service_healthy"
    assert services["pipeline"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_dvc_has_a_user_name_and_writes_to_memory_only(services: dict[str, Any]) -> None:
    """`dvc repro` of a user without a name, on a read-only root."""
    pipeline = services["pipeline"]
    assert pipeline["tmpfs"] == ["/tmp"]  # noqa: S108 - in the container
    named = pipeline["environment"]
    assert named["USER"]
    for name in ("HOME", DVC_SITE_CACHE_DIR):
        assert Path(named[name]).is_relative_to("/tmp")  # noqa: S108
