"""Why a stream ended early: Envoy's reasons, with the answer and the log flag of each."""

from __future__ import annotations

from enum import Enum
from typing import Final

from waypoint.core.local_reply import RESET_PREFIX
from waypoint.core.message import Reply


class Reset(Enum):
    """A reason, its words in answers and logs, and its response flag (Envoy's utility.cc)."""

    CONNECTION_FAILURE = ("remote connection failure", "UF")
    """No connection to the endpoint came about."""
    CONNECTION_TIMEOUT = ("connection timeout", "UF")
    CONNECTION_TERMINATION = ("connection termination", "UC")
    """The endpoint's connection ended under the request."""
    REMOTE_RESET = ("remote reset", "UR")
    REFUSED_STREAM = ("remote refused stream reset", "UR")
    """The endpoint says that it did not look at the request: it may be sent again."""
    CONNECT_ERROR = ("remote error with CONNECT request", "UR")
    LOCAL_RESET = ("local reset", "LR")
    OVERFLOW = ("overflow", "UO")
    PROTOCOL_ERROR = ("protocol error", "UPE")
    """The endpoint does not speak the protocol that it should, or breaks its rules."""

    def __init__(self, words: str, flag: str) -> None:
        self.words = words
        self.flag = flag

    def details(self, cause: str = "", *, started: bool = False) -> str:
        """The log's response code details; ``started``: the response had begun.

        What was wrong about a protocol is not part of them, as with Envoy.
        """
        when = "after" if started else "before"
        told = self.words + (f"|{cause}" if cause and self is not Reset.PROTOCOL_ERROR else "")
        return f"upstream_reset_{when}_response_started{{{told.replace(' ', '_')}}}"

    def reply(self, cause: str = "", *, retried: bool = False, started: bool = False) -> Reply:
        """The answer for the client. ``cause`` is for the log only: it can name what clients must
        not know (Envoy since 1.38).

        With ``started`` nothing can be answered any more; flag and details are for the log.
        """
        prefix = RESET_PREFIX
        if retried:
            prefix = prefix.replace("reset reason", "retried and the latest reset reason")
        status = 502 if self is Reset.PROTOCOL_ERROR else 503
        details = self.details(cause, started=started)
        return Reply(status, prefix + self.words, self.flag, details)


OVERLOADED: Final = Reset.OVERFLOW.reply()._replace(headers=(("x-envoy-overloaded", "true"),))
"""A limit of the connection pool is reached."""
