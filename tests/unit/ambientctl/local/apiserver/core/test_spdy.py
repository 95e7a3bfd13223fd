"""Streams as Kubernetes' clients open them; tests/fuzz/spdy_clients.py makes the bytes."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.apiserver.core import spdy as spdy_module
from ambientctl.local.apiserver.core.spdy import (
    DICTIONARY,
    MAX_FRAME_BYTES,
    MAX_STREAMS,
    Data,
    Opened,
    Reset,
    Spdy,
    SpdyError,
)
from tests.fuzz.spdy_clients import control, headers, opening, outcome, talk


def test_a_pair_of_streams_and_what_is_said_on_them():
    spdy = Spdy()
    error, data, hello, end, reset = spdy.receive(talk())
    assert error == Opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}, False)
    assert data.headers["streamtype"] == "data"
    assert (hello, end) == (Data(3, b"hello", False), Data(3, b"end", True))
    assert reset == Reset(1)
    assert spdy.streams == {3}
    assert spdy.outgoing == control(6, struct.pack("!I", 1))  # the ping comes back


def test_answers_are_frames_that_a_client_reads():
    spdy = Spdy()
    spdy.receive(talk())
    spdy.outgoing.clear()
    spdy.accept(3)
    kind, stream = struct.unpack_from("!H4xI", spdy.outgoing, 2)
    assert (kind, stream) == (2, 3)
    inflate = zlib.decompressobj(zdict=DICTIONARY)
    assert inflate.decompress(spdy.outgoing[12:]) == bytes(4)
    spdy.outgoing.clear()
    spdy.send(3, b"bytes", fin=True)
    assert spdy.outgoing == struct.pack("!II", 3, 1 << 24 | 5) + b"bytes"
    spdy.outgoing.clear()
    spdy.send(5, b"to a stream that there is not")
    assert not spdy.outgoing
    spdy.reset(3)
    assert spdy.outgoing == control(3, struct.pack("!II", 3, 5))
    assert spdy.streams == set()


def test_what_is_long_goes_out_in_frames():
    spdy = Spdy()
    spdy.receive(talk())
    spdy.outgoing.clear()
    spdy.send(3, bytes(2 * MAX_FRAME_BYTES + 1), fin=True)
    assert len(spdy.outgoing) == 2 * MAX_FRAME_BYTES + 1 + 3 * 8
    assert struct.unpack_from("!II", spdy.outgoing, 2 * (MAX_FRAME_BYTES + 8))[1] == 1 << 24 | 1


@given(st.lists(st.integers(1, 40)))
def test_chunking_is_invisible(sizes):
    whole, pieces, at = talk(), [], 0
    for size in sizes:
        pieces.append(whole[at : at + size])
        at += size
    assert outcome([*pieces, whole[at:]]) == outcome([whole])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (struct.pack("!HHI", 0x8002, 1, 0), "version 2"),
        (struct.pack("!II", 1, MAX_FRAME_BYTES + 1), "a frame of 1048577 bytes"),
        (control(6, b""), "too short"),
        (control(1, struct.pack("!IIBB", 2, 0, 0, 0)), "stream 2 cannot be opened"),
        (control(1, struct.pack("!IIBB", 1, 0, 0, 0) + b"no zlib"), "headers: "),
        (control(1, struct.pack("!IIBB", 1, 0, 0, 0)), "headers without a number"),
    ],
)
def test_what_breaks_the_protocol_ends_it(data, said):
    with pytest.raises(SpdyError, match=said):
        Spdy().receive(data)


def test_limits(monkeypatch):
    deflate = zlib.compressobj(zdict=DICTIONARY)
    bomb = headers(deflate, (b"a", bytes(1 << 20)))
    with pytest.raises(SpdyError, match="too long"):
        Spdy().receive(control(1, struct.pack("!IIBB", 1, 0, 0, 0) + bomb))
    monkeypatch.setattr(spdy_module, "MAX_STREAMS", 3)
    assert MAX_STREAMS > 3
    deflate = zlib.compressobj(zdict=DICTIONARY)
    with pytest.raises(SpdyError, match="too many streams"):
        Spdy().receive(b"".join(opening(deflate, n, b"data") for n in (1, 3, 5, 7)))
    deflate = zlib.compressobj(zdict=DICTIONARY)
    cut = headers(deflate, (b"a", b"b"))
    plain = struct.pack("!II", 9, 1) + b"a"
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)
    assert cut != block
    with pytest.raises(SpdyError, match="cut off"):
        Spdy().receive(control(1, struct.pack("!IIBB", 1, 0, 0, 0) + block))
