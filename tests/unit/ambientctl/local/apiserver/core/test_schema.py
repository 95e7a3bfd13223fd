"""Structural schemas: causes, pruning, defaults."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core import schema

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def obj(**properties):
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("rules", "value", "want"),
    [
        (STRING, "x", []),
        (STRING, 1, [("FieldValueTypeInvalid", "f")]),
        (INTEGER, 2.0, []),
        (INTEGER, True, [("FieldValueTypeInvalid", "f")]),
        ({"type": "number"}, 1, []),
        ({"type": "boolean"}, False, []),
        ({"type": "boolean"}, 0, [("FieldValueTypeInvalid", "f")]),
        ({**STRING, "nullable": True}, None, []),
        ({**STRING, "enum": ["a"]}, "b", [("FieldValueNotSupported", "f")]),
        ({**STRING, "pattern": "^a+$"}, "b", [("FieldValueInvalid", "f")]),
        ({**STRING, "pattern": "(?<broken"}, "b", []),
        ({**STRING, "maxLength": 1}, "bb", [("FieldValueTooLong", "f")]),
        ({**STRING, "minLength": 1}, "", [("FieldValueInvalid", "f")]),
        ({**INTEGER, "minimum": 1, "maximum": 2}, 3, [("FieldValueInvalid", "f")]),
        ({**INTEGER, "minimum": 1}, 0, [("FieldValueInvalid", "f")]),
        ({"x-kubernetes-int-or-string": True}, "1", []),
        ({"x-kubernetes-int-or-string": True}, 1.5, [("FieldValueTypeInvalid", "f")]),
        ({**obj(a=STRING), "required": ["a"]}, {}, [("FieldValueRequired", "f.a")]),
        (obj(a=STRING), {"a": None}, []),
        (obj(a=STRING), {"a": 1}, [("FieldValueTypeInvalid", "f.a")]),
        ({"type": "object", "additionalProperties": INTEGER}, {"k": "x"},
         [("FieldValueTypeInvalid", "f.k")]),
        ({"type": "object", "maxProperties": 0}, {"k": 1}, [("FieldValueTooMany", "f")]),
        ({"type": "object", "minProperties": 1}, {}, [("FieldValueInvalid", "f")]),
        ({"type": "array", "items": INTEGER}, [1, "x"], [("FieldValueTypeInvalid", "f[1]")]),
        ({"type": "array", "maxItems": 1}, [1, 2], [("FieldValueTooMany", "f")]),
        ({"type": "array", "minItems": 1}, [], [("FieldValueInvalid", "f")]),
        ({"type": "array", "x-kubernetes-list-map-keys": ["n"]}, [{"n": 1}, {"n": 1}],
         [("FieldValueDuplicate", "f[1]")]),
        ({"allOf": [{"minimum": 1}]}, 0, [("FieldValueInvalid", "f")]),
        ({"anyOf": [{"minimum": 5}, {"maximum": 1}]}, 3, [("FieldValueInvalid", "f")]),
        ({"anyOf": [{"minimum": 5}, {"maximum": 3}]}, 3, []),
        ({"oneOf": [{"minimum": 1}, {"maximum": 9}]}, 3, [("FieldValueInvalid", "f")]),
        ({"not": {"minimum": 1}}, 3, [("FieldValueInvalid", "f")]),
    ],
)  # fmt: skip
def test_check(rules, value, want):
    assert [(c.reason, c.field) for c in schema.check(rules, value, "f")] == want


def test_the_type_message_is_kubernetes_own():
    (cause,) = schema.check(obj(spec=obj(size=INTEGER)), {"spec": {"size": "x"}})
    assert cause.message == (
        'Invalid value: "string": spec.size in body must be of type integer: "string"'
    )


def test_prune_drops_and_names_what_is_unknown():
    rules = obj(spec=obj(a=STRING, list={"type": "array", "items": obj(b=STRING)}))
    value = {
        "apiVersion": "x/v1",
        "kind": "X",
        "metadata": {"name": "x"},
        "spec": {"a": "1", "zip": 2, "list": [{"b": "1", "c": 2}]},
    }
    assert schema.prune(rules, value) == ["spec.zip", "spec.list[0].c"]
    assert value["spec"] == {"a": "1", "list": [{"b": "1"}]}
    assert value["metadata"] == {"name": "x"}


def test_prune_keeps_what_the_schema_says_to_keep():
    rules = obj(status={"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    value = {"status": {"anything": {"at": "all"}}}
    assert schema.prune(rules, value) == []
    assert value == {"status": {"anything": {"at": "all"}}}


def test_defaults_fill_nested_gaps_with_copies():
    rules = obj(spec={**obj(tags={"type": "array", "default": []}), "default": {}})
    one, two = {}, {}
    schema.fill(rules, one)
    schema.fill(rules, two)
    one["spec"]["tags"].append("x")
    assert two == {"spec": {"tags": []}}
