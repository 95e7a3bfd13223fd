"""JSONPaths of additionalPrinterColumns."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.custom_columns import find

OBJ = {
    "metadata": {"annotations": {"a.b/c": "x"}},
    "spec": {"hosts": ["one", "two"], "n": 0},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "no"}]},
}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        (".spec.n", [0]),
        (".spec.hosts", [["one", "two"]]),
        (".spec.hosts[0]", ["one"]),
        (".spec.hosts[-1]", ["two"]),
        (".spec.hosts[*]", ["one", "two"]),
        (".spec.missing.deeper", []),
        (".metadata.annotations['a.b/c']", ["x"]),
        (r".metadata.annotations.a\.b/c", ["x"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='X')].status", ["no"]),
        ("$.spec.n", [0]),
        (".spec.[", []),
    ],
)
def test_find(path, want):
    assert find(OBJ, path) == want
