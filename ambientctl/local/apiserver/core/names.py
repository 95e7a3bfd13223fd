"""How names and labels may be spelled, in Kubernetes' own words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ambientctl.local.apiserver.core.status import Cause, bad_value

SUBDOMAIN_MAX: Final = 253  # RFC 1123
LABEL_MAX: Final = 63  # RFC 1123
ANNOTATIONS_MAX_BYTES: Final = 256 * 1024  # apimachinery, TotalAnnotationSizeLimitB

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"

_LABEL_RE = re.compile(_LABEL)
_DNS1035_RE = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN_RE = re.compile(_SUBDOMAIN)
_QUALIFIED_RE = re.compile(_QUALIFIED)
_PORT_NAME_RE = re.compile("[-a-z0-9]+")


def label_error(value: str) -> str:
    """Why this is no RFC 1123 label; empty when it is one."""
    if len(value) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if _LABEL_RE.fullmatch(value):
        return ""
    return (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
        "must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex "
        f"used for validation is '{_LABEL}')"
    )


def dns1035_error(value: str) -> str:
    """Why this is no DNS-1035 label (service names); empty when it is one."""
    if len(value) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if _DNS1035_RE.fullmatch(value):
        return ""
    return (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
        "alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or "
        "'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
    )


def subdomain_error(value: str) -> str:
    """Why this is no RFC 1123 subdomain; empty when it is one."""
    if len(value) > SUBDOMAIN_MAX:
        return f"must be no more than {SUBDOMAIN_MAX} characters"
    if _SUBDOMAIN_RE.fullmatch(value):
        return ""
    return (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
        "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex "
        f"used for validation is '{_LABEL}(\\.{_LABEL})*')"
    )


def path_segment_error(value: str) -> str:
    """Why this cannot stand in a URL path (role names and the like); empty when it can."""
    if value in {".", ".."}:
        return f"may not be '{value}'"
    found = [bad for bad in "/%" if bad in value]
    return f"may not contain '{found[0]}'" if found else ""


def qualified_name_error(value: str) -> str:
    """Why this is no label key or annotation key; empty when it is one."""
    prefix, slash, name = value.rpartition("/")
    if slash and not prefix:
        return "prefix part must be non-empty"
    if "/" in prefix:
        return (
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character with an optional DNS subdomain prefix "
            "and '/' (e.g. 'example.com/MyName')"
        )
    if prefix and (why := subdomain_error(prefix)):
        return f"prefix part {why}"
    if not name:
        return "name part must be non-empty"
    if len(name) > LABEL_MAX:
        return f"name part must be no more than {LABEL_MAX} characters"
    if not _QUALIFIED_RE.fullmatch(name):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start "
            "and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
            f"regex used for validation is '{_QUALIFIED}')"
        )
    return ""


def label_value_error(value: str) -> str:
    """Why this is no label value; empty when it is one."""
    if len(value) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if not value or _QUALIFIED_RE.fullmatch(value):
        return ""
    return (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
        "'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or "
        "'my_value',  or '12345', regex used for validation is "
        f"'({_QUALIFIED})?')"
    )


def port_name_error(value: str) -> str:
    """Why this cannot name a port (IANA service name); empty when it can."""
    if len(value) > 15:  # RFC 6335, section 5.1
        return "must be no more than 15 characters"
    if not _PORT_NAME_RE.fullmatch(value):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search("[a-z]", value):
        return "must contain at least one letter (a-z)"
    if "--" in value or value[0] == "-" or value[-1] == "-":
        return "must not contain consecutive hyphens or begin or end with a hyphen"
    return ""


def label_causes(labels: Mapping[str, object], field: str) -> Iterator[Cause]:
    """What is wrong with a map of labels."""
    for key, value in labels.items():
        if why := qualified_name_error(key):
            yield bad_value(field, key, why)
        if not isinstance(value, str):
            yield bad_value(f"{field}.{key}", value, "must be a string")
        elif why := label_value_error(value):
            yield bad_value(field, value, why)


def annotation_causes(annotations: Mapping[str, object], field: str) -> Iterator[Cause]:
    """What is wrong with a map of annotations."""
    total = 0
    for key, value in annotations.items():
        if why := qualified_name_error(key.lower()):
            yield bad_value(field, key, why)
        if not isinstance(value, str):
            yield bad_value(f"{field}.{key}", value, "must be a string")
        else:
            total += len(key) + len(value)
    if total > ANNOTATIONS_MAX_BYTES:
        message = f"Too long: may not be more than {ANNOTATIONS_MAX_BYTES} bytes"
        yield Cause("FieldValueTooLong", message, field)
