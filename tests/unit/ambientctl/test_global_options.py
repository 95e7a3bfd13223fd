"""Options before a command mean what they mean after it, and istioctl's words are understood."""

from __future__ import annotations

import json

import pytest

from tests.unit.ambientctl.meshes import build


@pytest.fixture
def mesh(ambientctl):
    build(ambientctl, policies="")
    return ambientctl


def test_a_namespace_before_the_command(mesh):
    after = mesh.ok("waypoint", "list", "-n", "shop")
    assert "waypoint" in after
    assert mesh.ok("-n", "shop", "waypoint", "list") == after
    assert mesh.ok("waypoint", "-n", "shop", "list") == after
    # The nearest wins.
    assert mesh.ok("-n", "nowhere", "waypoint", "list", "-n", "shop") == after


def test_a_context_before_the_command(mesh):
    done = mesh("--context", "lost", "waypoint", "list")
    assert done.status == 2
    assert "there is no context lost; there are " in done.err


def test_the_namespace_of_the_control_plane_before_the_command(mesh):
    done = mesh("-i", "elsewhere", "proxy-status")
    assert done.status == 1
    assert "no control plane runs in elsewhere" in done.err


def test_speaking_for_somebody_else(mesh):
    done = mesh("describe", "namespace", "shop", "--as", "nobody")
    assert done.status == 1
    assert 'User "nobody" cannot list' in done.err
    assert mesh("--as", "nobody", "describe", "namespace", "shop").err == done.err
    admin = ("--as", "me", "--as-group", "a", "--as-group", "system:masters", "--as-uid", "7")
    mesh.ok("describe", "namespace", "shop", *admin)
    alone = mesh("describe", "namespace", "shop", "--as-group", "a")
    assert alone.status == 2
    assert "need a user" in alone.err


@pytest.mark.parametrize("word", ["experimental", "exp", "x"])
def test_what_istioctl_calls_experimental_is_ordinary_here(mesh, word):
    described = mesh.ok("describe", "namespace", "shop")
    assert mesh.ok(word, "describe", "namespace", "shop") == described
    assert mesh.ok(word, "des", "ns", "shop") == described
    assert mesh(word, "nothing").status == 2


def test_precheck_is_the_check_before_an_installation(ambientctl):
    asked = ambientctl("x", "precheck", "-o", "json")
    found = {one["category"] for one in json.loads(asked.out)}
    assert "kubernetes" in found
    assert "control-plane" not in found
