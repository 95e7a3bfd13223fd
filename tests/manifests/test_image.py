"""The image holds what the manifests start. (Building one needs a registry; this reads it.)"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from ambientctl.manifests import bundle

CONTAINERFILE = Path("Containerfile").read_text()
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())


def containers() -> list[dict]:
    objects = bundle.objects(bundle.defaults())
    pods = [
        each["spec"]["template"]["spec"] for each in objects if "template" in each.get("spec", {})
    ]
    return [container for pod in pods for container in pod["containers"]]


def test_every_command_is_a_program_of_the_project() -> None:
    commands = {container["command"][0] for container in containers()}
    assert commands == {"istiod-lite", "ztunnel", "ambient-cni-agent"}
    assert commands < set(PROJECT["project"]["scripts"])


def test_one_image_whose_version_is_the_projects() -> None:
    images = {container["image"] for container in containers()}
    assert images == {f"ambient-mesh:{PROJECT['project']['version']}"}
    assert f"build -t {images.pop()} ." in CONTAINERFILE


def test_every_package_and_file_that_is_copied_exists() -> None:
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    copied = {name for line in sources for name in line.split()}
    assert all(Path(name).exists() for name in copied)
    packages = {
        name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages < copied
    kept = {
        line[1:] for line in Path(".containerignore").read_text().splitlines() if line[0] == "!"
    }
    assert copied <= kept


def test_the_plugins_interpreter_is_where_the_agent_looks() -> None:
    (agent,) = (one for one in containers() if one["command"] == ["ambient-cni-agent"])
    (folder,) = (e["value"] for e in agent["env"] if e["name"] == "CNI_PLUGIN_RUNTIME")
    assert f"runtime_tree {folder}\n" in CONTAINERFILE
    assert f"COPY --from=build {folder} {folder}\n" in CONTAINERFILE


def test_settings_in_manifests_are_settings_of_the_programs() -> None:
    known = " ".join(path.read_text().upper() for path in Path(".").glob("*/settings.py"))
    known += " LOG_LEVEL LOG_FORMAT "
    for container in containers():
        for entry in container["env"]:
            assert re.search(rf"\b{entry['name']}\b", known), entry["name"]
