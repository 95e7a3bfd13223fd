"""Issuers with keys, and tokens that they sign."""

from __future__ import annotations

import json

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

KEYS = {name: rsa.generate_private_key(65537, 2048) for name in ("one", "two")}


def jwks(*names):
    found = [
        {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[name].public_key())), "kid": name}
        for name in names
    ]
    return json.dumps({"keys": found})


def token(issuer="one", key=None, **payload):
    signer = key or issuer
    claims = {"iss": issuer, "sub": "alice", **payload}
    return jwt.encode(claims, KEYS[signer], "RS256", headers={"kid": signer})
