"""Names and labels: one row for each rule."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core import names


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.label_error, "a-1", "A"),
        (names.label_error, "1", "a" * 64),
        (names.dns1035_error, "web", "1web"),
        (names.subdomain_error, "a.b-c.1", "a..b"),
        (names.subdomain_error, "x" * 253, "x" * 254),
        (names.path_segment_error, "system:admin", "a/b"),
        (names.qualified_name_error, "istio.io/dataplane-mode", "a/b/c"),
        (names.qualified_name_error, "Name_1.x", "/x"),
        (names.qualified_name_error, "x", "-x"),
        (names.label_value_error, "", "-"),
        (names.label_value_error, "a_B.c", "a b"),
        (names.port_name_error, "http-web", "HTTP"),
        (names.port_name_error, "h2", "22"),
        (names.port_name_error, "p", "a--b"),
        (names.port_name_error, "fifteen-letters", "sixteen-letters-"),
    ],
)
def test_a_good_name_has_no_error_and_a_bad_one_has(check, good, bad):
    assert check(good) == ""
    assert check(bad) != ""


def test_the_wording_is_kubernetes_own():
    assert names.label_error("Bad_Name").startswith(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
    )


def test_label_causes_name_the_field():
    causes = list(names.label_causes({"ok": "v", "bad key": "v", "k": 1}, "metadata.labels"))
    assert [(c.field, c.reason) for c in causes] == [
        ("metadata.labels", "FieldValueInvalid"),
        ("metadata.labels.k", "FieldValueInvalid"),
    ]


def test_annotations_are_limited_in_size():
    (cause,) = names.annotation_causes({"a": "x" * names.ANNOTATIONS_MAX_BYTES}, "f")
    assert cause.reason == "FieldValueTooLong"
