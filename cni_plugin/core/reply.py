"""What the plugin answers: results and errors of the CNI specification 1.1.0, section 5."""

from __future__ import annotations

from typing import Any, Final


class Code:
    """Error codes; below 100 they are the specification's."""

    INCOMPATIBLE_VERSION: Final = 1
    UNKNOWN_CONTAINER: Final = 3
    BAD_ENVIRONMENT: Final = 4
    IO_FAILURE: Final = 5
    UNDECODABLE: Final = 6
    BAD_CONFIGURATION: Final = 7
    TRY_AGAIN: Final = 11
    ENROLMENT_FAILED: Final = 100
    """The agent answered, and the pod could not be put into the mesh."""
    INTERNAL: Final = 999


class CniError(Exception):
    """A refusal; ``details`` is the remedy."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def reply(self, version: str) -> dict[str, Any]:
        """The error object."""
        reply = {"cniVersion": version, "code": self.code, "msg": self.message}
        return {**reply, "details": self.details} if self.details else reply


def passed_through(previous: dict[str, Any] | None, version: str) -> dict[str, Any]:
    """The result of ADD: we add no interface, so it is the previous plugin's, in our version."""
    return {**(previous or {"interfaces": [], "ips": [], "dns": {}}), "cniVersion": version}
