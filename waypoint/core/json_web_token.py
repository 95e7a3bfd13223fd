"""JSON Web Tokens and the keys that sign them (RFC 7515, 7517, 7519), as Envoy reads them.

Every refusal is one of Envoy's sentences (its ``jwt_verify_lib``): they are what clients see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

MISSING: Final = "Jwt is missing"
EXPIRED: Final = "Jwt is expired"
NOT_YET: Final = "Jwt not yet valid"
UNKNOWN_ISSUER: Final = "Jwt issuer is not configured"
WRONG_AUDIENCE: Final = "Audiences in Jwt are not allowed"
BAD_SIGNATURE: Final = "Jwt verification fails"
NO_KEY: Final = "Jwks doesn't have key to match kid or alg from Jwt"
NO_VALID_KEY: Final = "Jwks doesn't have any valid public key"
FETCH_FAILED: Final = "Jwks remote fetch is failed"
BAD_FORMAT: Final = (
    "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
)
CLOCK_SKEW_S: Final = 60
"""Tolerance for ``exp`` and ``nbf`` (Envoy's default)."""
MAX_TOKEN: Final = 64 * 1024
"""Characters; no header line that we accept is longer."""
MAX_KEYS: Final = 256
"""Keys that are read from one set."""

ALGORITHMS: Final[Mapping[str, str]] = {
    **{
        f"{family}{bits}": kind
        for family, kind in (("RS", "RSA"), ("PS", "RSA"), ("HS", "oct"), ("ES", "EC"))
        for bits in (256, 384, 512)
    },
    "EdDSA": "OKP",
}
"""By name: the type of key that it needs. There is no ``none``."""
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_INT64_MAX: Final = 2**63 - 1


@lru_cache
def _arithmetic(name: str) -> Algorithm:
    """Of an algorithm. Its library loads an HTTP client for keys, which only tokens shall cost."""
    from jwt import algorithms

    if name == "EdDSA":
        return algorithms.OKPAlgorithm()
    made: Any = {
        "RS": algorithms.RSAAlgorithm,
        "PS": algorithms.RSAPSSAlgorithm,
        "HS": algorithms.HMACAlgorithm,
        "ES": algorithms.ECAlgorithm,
    }[name[:2]]
    found: Algorithm = made(getattr(made, f"SHA{name[2:]}"))
    return found


def _unusable() -> tuple[type[Exception], ...]:
    from jwt import PyJWTError

    return ValueError, TypeError, KeyError, PyJWTError


class TokenError(ValueError):
    """A token that is refused; the text is Envoy's."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token that could be read; nothing in it is proven yet."""

    algorithm: str
    kid: str
    issuer: str
    audiences: tuple[str, ...]
    not_before_s: int
    expires_s: int
    """0: never."""
    payload: Mapping[str, Any]
    payload_text: str
    """As it stands in the token: base64url without padding."""
    signed: bytes
    signature: bytes

    def check_time(self, now_s: float) -> None:
        """Raises TokenError where the token is too old or too young."""
        if now_s + CLOCK_SKEW_S < self.not_before_s:
            raise TokenError(NOT_YET)
        if self.expires_s and now_s > self.expires_s + CLOCK_SKEW_S:
            raise TokenError(EXPIRED)


def read_token(text: str) -> Token:
    """Take a token apart. Raises TokenError."""
    parts = text.split(".")
    if len(text) > MAX_TOKEN or len(parts) != 3 or not all(parts):
        raise TokenError(BAD_FORMAT)
    header = _json(parts[0], "header")
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str):
        raise TokenError("Jwt header [alg] field is required and must be a string")
    if algorithm not in ALGORITHMS:
        raise TokenError("Jwt header [alg] is not supported")
    if not isinstance(kid, str):
        raise TokenError("Jwt header [kid] field is not a string")
    payload = _json(parts[1], "payload")
    _strings(payload, "iss", "sub")
    times = {name: _seconds(payload, name) for name in ("iat", "nbf", "exp")}
    _strings(payload, "jti")
    return Token(
        algorithm=algorithm,
        kid=kid,
        issuer=payload.get("iss", ""),
        audiences=_audiences(payload),
        not_before_s=times["nbf"],
        expires_s=times["exp"],
        payload=payload,
        payload_text=parts[1].rstrip("="),
        signed=f"{parts[0]}.{parts[1]}".encode(),
        signature=_base64(parts[2], "signature"),
    )


_PROVEN_TOKENS: Final = 1024
_proven: dict[bytes, tuple[Token, KeySet]] = {}
"""Tokens that were verified, by their digest, with the keys that did it."""


def recall(text: str) -> tuple[Token, KeySet | None]:
    """A token, and the keys that have proven it before. Raises TokenError as ``read_token``."""
    found = _proven.get(_digest(text))
    return found if found is not None else (read_token(text), None)


def remember(text: str, token: Token, proven_by: KeySet) -> None:
    """The signature need not be looked at again as long as the keys are the same."""
    if len(_proven) >= _PROVEN_TOKENS:
        _proven.clear()
    _proven[_digest(text)] = (token, proven_by)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _json(part: str, what: str) -> dict[str, Any]:
    raw = _base64(part, what)
    try:
        found = msgspec.json.decode(raw)
        json.loads(raw, object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        raise TokenError(f"Jwt {what} is an invalid JSON") from None
    if not isinstance(found, dict):
        raise TokenError(f"Jwt {what} is an invalid JSON")
    return found


def _once_each(pairs: list[tuple[str, Any]]) -> None:
    """A name that stands twice may mean one thing to us and another to the application."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")


def _base64(part: str, what: str) -> bytes:
    body = part.rstrip("=")
    try:
        if not body.isascii() or "+" in body or "/" in body or len(part) - len(body) > 2:
            raise ValueError
        padded = body.encode() + b"=" * (-len(body) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise TokenError(f"Jwt {what} is an invalid Base64url encoded") from None


def _strings(payload: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(payload.get(name, ""), str):
            raise TokenError(f"Jwt payload [{name}] field is not a string")


def _seconds(payload: Mapping[str, Any], name: str) -> int:
    value = payload.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"Jwt payload [{name}] field is not an integer")
    if not 0 <= value <= _INT64_MAX:
        raise TokenError(f"Jwt payload [{name}] field is not a positive 64 bit integer")
    return int(value)


def _audiences(payload: Mapping[str, Any]) -> tuple[str, ...]:
    value = payload.get("aud", [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TokenError("Jwt payload [aud] field is not a string or string list")
    return tuple(found)


def audience_form(text: str) -> str:
    """How audiences are compared: without scheme and without a slash at the end (Envoy)."""
    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    return text.removesuffix("/")


class Key(msgspec.Struct, frozen=True):
    """A public key, or a shared secret. ``kid`` and ``algorithm`` are empty where not said."""

    kind: str
    kid: str
    algorithm: str
    material: Any

    def fits(self, token: Token) -> bool:
        """Whether the set says that it may have signed a token."""
        if token.kid and self.kid and self.kid != token.kid:
            return False
        return not self.algorithm or self.algorithm == token.algorithm

    def signed(self, token: Token) -> bool:
        """Whether it did. A key serves algorithms of its own type only."""
        if ALGORITHMS[token.algorithm] != self.kind:
            return False
        algorithm = _arithmetic(token.algorithm)
        try:
            return bool(algorithm.verify(token.signed, self.material, token.signature))
        except _unusable():
            return False


class KeySet(msgspec.Struct, frozen=True):
    """The keys of one issuer; ``error`` says why there is none."""

    keys: tuple[Key, ...] = ()
    error: str = NO_VALID_KEY

    def verify(self, token: Token) -> None:
        """Raises TokenError where none of the keys signed the token."""
        if not self.keys:
            raise TokenError(self.error)
        fitting = [key for key in self.keys if key.fits(token)]
        if not fitting:
            raise TokenError(NO_KEY)
        if not any(key.signed(token) for key in fitting):
            raise TokenError(BAD_SIGNATURE)

    def knows(self, token: Token) -> bool:
        """Whether a key has the token's name; without one, another fetch would not help."""
        return any(key.fits(token) for key in self.keys)


def read_keys(text: str | bytes) -> KeySet:
    """A JWK set. Keys that cannot be used are passed over; a set without any refuses all."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
        return KeySet(error="Jwks is an invalid JSON")
    if not isinstance(found, dict) or "keys" not in found:
        return KeySet(error="Jwks does not have [keys] field")
    if not isinstance(found["keys"], list):
        return KeySet(error="[keys] in Jwks is not an array")
    read = [_key(raw) for raw in found["keys"][:MAX_KEYS] if isinstance(raw, dict)]
    return KeySet(tuple(key for key in read if key is not None))


def _key(raw: dict[str, Any]) -> Key | None:
    kind, kid, algorithm = raw.get("kty"), raw.get("kid", ""), raw.get("alg", "")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        return None
    name = algorithm or _algorithm(raw)
    if name not in ALGORITHMS or ALGORITHMS[name] != kind:
        return None
    if kind == "EC" and _CURVES.get(str(raw.get("crv"))) != name:
        return None
    if kind == "OKP" and raw.get("crv") != "Ed25519":
        return None
    try:
        material = _arithmetic(name).from_jwk(_public(raw))
    except _unusable():
        return None
    return Key(str(kind), kid, name if kind == "EC" else algorithm, material)


def _public(raw: dict[str, Any]) -> dict[str, Any]:
    """Without its private half, which nobody needs here."""
    return {name: raw[name] for name in ("kty", "crv", "n", "e", "x", "y", "k") if name in raw}


def _algorithm(raw: dict[str, Any]) -> str:
    """One that reads keys of this type."""
    match raw.get("kty"):
        case "RSA":
            return "RS256"
        case "oct":
            return "HS256"
        case "OKP":
            return "EdDSA"
        case _:
            return _CURVES.get(str(raw.get("crv")), "")
