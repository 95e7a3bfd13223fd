"""What the client and the log are told when a stream ends early."""

import pytest

from waypoint.core.reset import Reset


@pytest.mark.parametrize(
    ("reset", "status", "flag", "words"),
    [
        (Reset.CONNECTION_FAILURE, 503, "UF", "remote connection failure"),
        (Reset.CONNECTION_TIMEOUT, 503, "UF", "connection timeout"),
        (Reset.CONNECTION_TERMINATION, 503, "UC", "connection termination"),
        (Reset.REMOTE_RESET, 503, "UR", "remote reset"),
        (Reset.REFUSED_STREAM, 503, "UR", "remote refused stream reset"),
        (Reset.OVERFLOW, 503, "UO", "overflow"),
        (Reset.LOCAL_RESET, 503, "LR", "local reset"),
        (Reset.PROTOCOL_ERROR, 502, "UPE", "protocol error"),
    ],
)
def test_answers(reset, status, flag, words):
    reply = reset.reply()
    text = f"upstream connect error or disconnect/reset before headers. reset reason: {words}"
    assert (reply.status, reply.flag, reply.body) == (status, flag, text)
    inner = words.replace(" ", "_")
    assert reply.details == f"upstream_reset_before_response_started{{{inner}}}"
    assert "retried and the latest reset reason: " in reset.reply(retried=True).body


def test_the_cause_is_for_the_log():
    reply = Reset.CONNECTION_FAILURE.reply("connection refused", started=True)
    assert reply.body.endswith("reset reason: remote connection failure")
    assert reply.details == (
        "upstream_reset_after_response_started{remote_connection_failure|connection_refused}"
    )
    broken = Reset.PROTOCOL_ERROR.reply("http1.codec_error")
    assert broken.details == "upstream_reset_before_response_started{protocol_error}"
