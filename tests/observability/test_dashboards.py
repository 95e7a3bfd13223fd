"""Dashboards as files: current, complete, and readable by Grafana."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from manifests.observability.dashboards.__main__ import DASHBOARDS, FOLDER, rendered

FILES = sorted(path.name for path in FOLDER.glob("*.json"))


def loaded(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return made


def panels(made: dict[str, Any]) -> list[dict[str, Any]]:
    inside = [panel for each in made["panels"] for panel in each.get("panels") or []]
    return [each for each in (*made["panels"], *inside) if each["type"] != "row"]


def test_the_files_are_current() -> None:
    assert {name: (FOLDER / name).read_text() for name in FILES} == rendered(), "make dashboards"
    assert len(FILES) == len(DASHBOARDS)


@pytest.mark.parametrize("name", FILES)
def test_every_panel_has_a_title_a_unit_and_a_place(name: str) -> None:
    made = loaded(name)
    assert made["uid"] == f"ambient-{name.removesuffix('.json')}"
    places = set()
    for panel in panels(made):
        assert panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        places.add((grid["x"], grid["y"]))
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert len(places) == len(panels(made))


@pytest.mark.parametrize("name", FILES)
def test_every_panel_says_what_it_means_and_its_series_who_they_are(name: str) -> None:
    made = loaded(name)
    for panel in panels(made):
        assert panel["description"].endswith("."), panel["title"]
        if panel["type"] == "timeseries":
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert all(legends), panel["title"]
            assert len(set(legends)) == len(legends), panel["title"]
            labels = set(re.findall(r"{{(\w+)}}", "".join(legends)))
            asked = " ".join(target["expr"] for target in panel["targets"])
            grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", asked))))
            assert labels <= grouped or not grouped, panel["title"]


@pytest.mark.parametrize("name", FILES)
def test_tables_show_one_line_with_named_columns(name: str) -> None:
    for panel in panels(loaded(name)):
        if panel["type"] != "table":
            continue
        ids = {target["refId"] for target in panel["targets"]}
        merge, organize = panel["transformations"]
        assert merge["id"] == "merge"
        names = organize["options"]["renameByName"]
        assert names.keys() == {f"Value #{one}" for one in ids}
        given = {one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]}
        assert given == set(names.values()), "every column has its unit"


@pytest.mark.parametrize("name", FILES)
def test_one_dashboard_leads_to_the_others(name: str) -> None:
    made = loaded(name)
    (link,) = made["links"]
    assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)
    assert set(link["tags"]) <= set(made["tags"])
    first, *rest = made["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    asked = json.dumps([target["expr"] for panel in panels(made) for target in panel["targets"]])
    for one in rest:
        assert one["datasource"]["uid"] == "${datasource}"
        assert f"${one['name']}" in asked, "a variable that nothing asks for"


@pytest.mark.parametrize("name", ["mesh.json", "service.json", "workload.json"])
def test_pain_24_requests_are_looked_for_at_waypoints_too(name: str) -> None:
    asked = [target["expr"] for panel in panels(loaded(name)) for target in panel["targets"]]
    requests = [one for one in asked if "istio_request" in one and "reporter" in one]
    assert requests
    assert all("waypoint" in one for one in requests), requests


def test_grafana_is_given_every_dashboard() -> None:
    kustomization = yaml.safe_load((FOLDER.parent / "kustomization.yaml").read_text())
    given = {file for each in kustomization["configMapGenerator"] for file in each["files"]}
    assert {f"dashboards/{name}" for name in FILES} <= given
