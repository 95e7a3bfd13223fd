"""The image holds what the manifests start. (Its base needs a registry; this makes its wheel.)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

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


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """What `pip install .` of the Containerfile puts into the image, made of what it copies."""
    source, wheels = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("wheels")
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE):
        for name in line.split():
            if Path(name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(name, source / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels)]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("image")
    (wheel,) = wheels.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_image_installs_the_same_as_the_source(image: Path) -> None:
    """The manifests are in it, and a user of a wheel needs no clone."""
    where = "import ambientctl, sys; print(ambientctl.__file__, file=sys.stderr)"
    start = "from ambientctl.__main__ import main; main()"
    words = ["-c", f"{where}; {start}", "install", "--dry-run", "--profile", "production"]

    def printed(path: Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=environment, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(str(path))
        return done.stdout

    found = printed(image)
    assert "kind: DaemonSet" in found
    assert found == printed(Path.cwd())


def test_the_image_has_every_file_that_its_programs_open(image: Path) -> None:
    for pattern in ("istiod_lite/static/*", "ambient/**/*.c", "ambientctl/local/**/*.json"):
        here = {str(one) for one in Path(".").glob(pattern) if one.is_file()}
        there = {str(one.relative_to(image)) for one in image.glob(pattern)}
        assert here, pattern
        assert here <= there, pattern


@pytest.mark.parametrize("program", ["istiod_lite", "ztunnel", "waypoint", "cni_plugin.agent_main"])
def test_every_program_says_its_version_and_how_it_is_called(program: str) -> None:
    for words, status in ((["--help"], 0), (["help"], 0), (["--version"], 0), (["lost"], 2)):
        command = [sys.executable, "-m", program, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done
        assert (done.stdout + done.stderr).startswith(("usage: ", PROJECT["project"]["version"]))
