"""Everything that an installation consists of, with the values that were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from ambient.api.errors import MeshError
from ambientctl.manifests import schema, template
from ambientctl.manifests.values import lookup, merge, put

FOLDER: Final = Path(__file__).resolve().parent / "data"
"""The project's ``manifests``; a wheel has a copy."""
COMPONENTS: Final = {
    "monitoring": "monitoring",
    "network-policies": "networkPolicies",
    "resource-quotas": "resourceQuotas",
    "security-context-constraints": "securityContextConstraints",
}
"""Folders of ``components`` and the switch of each below the value ``components``."""
OF_A_REVISION: Final = ("istiod.yaml", "webhook.yaml")
"""What a second control plane consists of; the rest of the mesh is there once."""
DEFAULT_PROFILE: Final = "default"


def base_files() -> list[Path]:
    """In the order in which they are applied."""
    base = FOLDER / "base"
    kustomization = yaml.safe_load((base / "kustomization.yaml").read_text())
    return [base / name for name in kustomization["resources"]]


def component_files(folder: str) -> list[Path]:
    """The files of one of ``COMPONENTS``."""
    path = FOLDER / "components" / folder
    return [path / name for name in yaml.safe_load(_kustomization(path))["resources"]]


def _kustomization(path: Path) -> str:
    return (path / "kustomization.yaml").read_text()


def choices() -> Iterator[template.Choice]:
    """What may be chosen, each once, with the first reason that is given. Raises MeshError where
    two places have different defaults.
    """
    yield template.Choice(template.REVISION, template.DEFAULT_REVISION, "of the control plane")
    seen: dict[str, template.Choice] = {}
    for path in base_files():
        for choice in template.choices(path.read_text()):
            first = seen.setdefault(choice.path, choice)
            if str(first.default) != str(choice.default):
                raise MeshError(f"{path}: {choice.path} has another default elsewhere")
    yield from (choice for choice in seen.values() if choice.path != template.REVISION)
    yield template.Choice(schema.PLATFORM, "", "what is not chosen is as the distribution has it")
    for folder, switch in COMPONENTS.items():
        yield template.Choice(f"components.{switch}", False, f"manifests/components/{folder}")


def defaults() -> dict[str, Any]:
    """All values, as the manifests have them."""
    found: dict[str, Any] = {}
    for choice in choices():
        put(found, choice.path, choice.default)
    return found


def profiles() -> list[str]:
    """The names of the profiles."""
    return [DEFAULT_PROFILE, *sorted(path.stem for path in (FOLDER / "profiles").glob("*.yaml"))]


def profile(name: str) -> dict[str, Any]:
    """What a profile chooses. Raises MeshError for one that there is not."""
    if name == DEFAULT_PROFILE:
        return {}
    path = FOLDER / "profiles" / f"{name}.yaml"
    if not path.is_file():
        raise MeshError(f"there is no profile {name}", hint=f"there are {', '.join(profiles())}")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def choose(chosen: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All values: the defaults, over them the platform's, and each of ``chosen``. Raises MeshError
    for a name that there is not and a value that cannot be.
    """
    chosen = list(chosen)
    values = merged(chosen)
    schema.check(values)
    platform = lookup(values, schema.PLATFORM)
    return merged([profile(platform), *chosen]) if platform else values


def merged(chosen: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The defaults, and over them each of ``chosen``. Raises MeshError."""
    values = defaults()
    for one in chosen:
        values = merge(values, one)
    return values


def objects(
    values: Mapping[str, Any], namespace: str = template.SYSTEM_NAMESPACE
) -> list[dict[str, Any]]:
    """The objects of an installation, in the order in which they are applied; definitions are not
    among them. Of a revision other than ``default`` only the control plane's.
    """
    files = base_files()
    if values[template.REVISION] != template.DEFAULT_REVISION:
        files = [path for path in files if path.name in OF_A_REVISION]
    else:
        for folder, switch in COMPONENTS.items():
            if lookup(values, f"components.{switch}"):
                files += component_files(folder)
    texts = (template.render(path.read_text(), values, namespace) for path in files)
    return _documents(texts)


def definitions() -> list[dict[str, Any]]:
    """The CustomResourceDefinitions, Gateway API's among them."""
    files = sorted((FOLDER / "crds").glob("*.yaml"))
    return _documents(path.read_text() for path in files)


_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's is eight times faster."""


def _documents(texts: Iterable[str]) -> list[dict[str, Any]]:
    return [one for text in texts for one in yaml.load_all(text, _LOADER) if one]
