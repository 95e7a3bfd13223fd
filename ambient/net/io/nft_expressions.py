"""One step of a rule as pyroute2's netlink attributes, and back.

``decode(kernel's form of encode(x)) == x`` for every expression of ours; anything else that the
kernel shows becomes ``Foreign``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from ambient.net.core.rules import (
    Bitwise,
    Compare,
    Count,
    Ct,
    Expression,
    Foreign,
    Load,
    Lookup,
    Meta,
    Payload,
    Redirect,
    SetCt,
    SetMeta,
    SourceNat,
    Verdict,
)

# Numbers of linux/netfilter/nf_tables.h, under our names for them.
_HEADERS: Final = {"network": 1, "transport": 2}  # NFT_PAYLOAD_*_HEADER
_META: Final = {
    "mark": 3,
    "iifname": 6,
    "oifname": 7,
    "skuid": 10,
    "nfproto": 15,
    "l4proto": 16,
}
_CT: Final = {"mark": 3, "zone": 17}
_ORIGINAL: Final = 0  # IP_CT_DIR_ORIGINAL
_COMPARE: Final = {"eq": 0, "neq": 1}
_VERDICTS: Final = {"drop": 0, "accept": 1}
_NAT_FAMILIES: Final[dict[Literal[4, 6], int]] = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_SNAT: Final = 0  # NFT_NAT_SNAT
_REGISTER: Final = 1  # NFT_REG_1
_VERDICT_REGISTER: Final = 0


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    return {"attrs": [(f"NFTA_{name}", value) for name, value in fields.items()]}


def _value(data: bytes) -> dict[str, Any]:
    return _nested({"DATA_VALUE": data})


def encode(step: Expression) -> dict[str, Any]:
    """The attributes of one expression. Raises ValueError for Foreign."""
    name, fields = _encoded(step)
    prefixed = {f"{name.upper()}_{field}": value for field, value in fields.items()}
    return _nested({"EXPR_NAME": name, "EXPR_DATA": _nested(prefixed)})


def _encoded(step: Expression) -> tuple[str, dict[str, Any]]:
    """nf_tables' name of the expression and its attributes."""
    into, out_of = {"DREG": _REGISTER}, {"SREG": _REGISTER}
    match step:
        case Verdict() | Redirect() | SourceNat() | Count():
            return _encoded_statement(step)
        case Meta(key):
            return "meta", {"KEY": _META[key], **into}
        case SetMeta(key):
            return "meta", {"KEY": _META[key], **out_of}
        case Ct(key):
            return "ct", {"KEY": _CT[key], **into}
        case SetCt(key, direction):
            way = {"DIRECTION": _ORIGINAL} if direction else {}
            return "ct", {"KEY": _CT[key], **way, **out_of}
        case Payload(header, offset, length):
            return "payload", {"BASE": _HEADERS[header], "OFFSET": offset, "LEN": length, **into}
        case Bitwise(mask, xor):
            masks = {"LEN": len(mask), "MASK": _value(mask), "XOR": _value(xor)}
            return "bitwise", {**out_of, **into, **masks}
        case Compare(op, data):
            return "cmp", {"OP": _COMPARE[op], "DATA": _value(data), **out_of}
        case Load(data):
            return "immediate", {"DATA": _value(data), **into}
        case Lookup(set_name):
            return "lookup", {"SET": set_name, **out_of}
        case _:
            raise ValueError(f"{step} is no expression of ours")


def _encoded_statement(step: Verdict | Redirect | SourceNat | Count) -> tuple[str, dict[str, Any]]:
    """What does something with the packet, rather than with the register."""
    match step:
        case Verdict(code):
            verdict = _nested({"DATA_VERDICT": _nested({"VERDICT_CODE": _VERDICTS[code]})})
            return "immediate", {"DREG": _VERDICT_REGISTER, "DATA": verdict}
        case Redirect():
            return "redir", {"REG_PROTO_MIN": _REGISTER}
        case SourceNat(version):
            source = {"TYPE": _SNAT, "FAMILY": _NAT_FAMILIES[version]}
            return "nat", {**source, "REG_ADDR_MIN": _REGISTER}
        case Count():
            return "counter", {}


def decode(shown: Any) -> Expression:
    """The expression that pyroute2 decoded from the kernel's dump."""
    name: str = shown.get_attr("NFTA_EXPR_NAME")
    data = shown.get_attr("NFTA_EXPR_DATA")

    def field(key: str) -> Any:
        return data.get_attr(f"NFTA_{name.upper()}_{key}")

    known = _decoded(name, field) if data is not None else None
    return Foreign(name) if known is None else known


def _decoded(name: str, field: Callable[[str], Any]) -> Expression | None:
    """pyroute2 shows numbers under the kernel's names, for example NFT_META_MARK."""
    if not {field("DREG"), field("SREG")} <= {None, "NFT_REG_1", "NFT_REG_VERDICT"}:
        return None
    match name:
        case "meta" | "ct":
            return _key(name, field)
        case "payload":
            header = _named(_HEADERS, "NFT_PAYLOAD_{}_HEADER", field("BASE"))
            return Payload(header, field("OFFSET"), field("LEN")) if header else None
        case "bitwise" if field("MASK") is not None:
            return Bitwise(_bytes(field("MASK")), _bytes(field("XOR")))
        case "cmp":
            op = _named(_COMPARE, "NFT_CMP_{}", field("OP"))
            return Compare(op, _bytes(field("DATA"))) if op else None
        case "immediate":
            return _immediate(field)
        case "redir" if field("REG_PROTO_MIN") == "NFT_REG_1":
            return Redirect()
        case "lookup" if not field("FLAGS"):  # NFT_LOOKUP_F_INV
            return Lookup(field("SET"))
        case "nat" if field("TYPE") == "NFT_NAT_SNAT" and field("REG_PROTO_MIN") is None:
            version = next((v for v, n in _NAT_FAMILIES.items() if n == field("FAMILY")), None)
            return SourceNat(version) if version else None
        case "counter":
            return Count()
        case _:
            return None


def _key(name: str, field: Callable[[str], Any]) -> Expression | None:
    store = field("SREG") is not None
    if name == "meta":
        key = _named(_META, "NFT_META_{}", field("KEY"))
        if store:
            return SetMeta("mark") if key == "mark" else None
        return Meta(key) if key else None
    key = _named(_CT, "NFT_CT_{}", field("KEY"))
    way = field("DIRECTION")
    if store:
        known = key and way in (None, _ORIGINAL)
        return SetCt(key, "" if way is None else "original") if known else None
    return Ct("mark") if key == "mark" else None


def _immediate(field: Callable[[str], Any]) -> Expression | None:
    if field("DREG") != "NFT_REG_VERDICT":
        return Load(_bytes(field("DATA")))
    verdict = field("DATA").get_attr("NFTA_DATA_VERDICT")
    code = _named(_VERDICTS, "NF_{}", verdict and verdict.get_attr("NFTA_VERDICT_CODE"))
    return Verdict(code) if code else None


def _named(names: Iterable[str], pattern: str, shown: Any) -> Any:
    """Our name for what the kernel calls ``pattern`` with that name in it, or None."""
    return next((name for name in names if pattern.format(name.upper()) == shown), None)


def _bytes(data: Any) -> bytes:
    return bytes(data.get_attr("NFTA_DATA_VALUE") or b"") if data is not None else b""
