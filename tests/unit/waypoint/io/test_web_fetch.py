"""Documents outside the mesh, from servers that do not always behave."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from ambient.api.errors import SettingsError
from waypoint.io.web_fetch import MAX_DOCUMENT, FetchError, WebFetch

PAGES = {
    "/keys": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "/moved": b"HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\n\r\n",
    "/round": b"HTTP/1.1 302 Found\r\nlocation: /round\r\ncontent-length: 0\r\n\r\n",
    "/inside": b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n"
    b"content-length: 0\r\n\r\n",
    "/gone": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    "/huge": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * (MAX_DOCUMENT + 1),
    "/garbage": b"hello?\r\n\r\n",
    "/short": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
}


async def fetched(path, timeout_s=5.0):
    """The document, or why there is none."""

    async def serve(stream):
        async with stream:
            head = await stream.receive_some()
            asked = head.split(b" ")[1].decode()
            if asked == "/silent":
                await trio.sleep_forever()
            with suppress(trio.BrokenResourceError):
                await stream.send_all(PAGES[asked])

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        try:
            found = await WebFetch().get(f"http://127.0.0.1:{port}{path}", timeout_s)
        except FetchError as error:
            found = str(error)
        nursery.cancel_scope.cancel()
    return found


@pytest.mark.parametrize("path", ["/keys", "/moved"])
async def test_documents(path):
    assert await fetched(path) == b"{}"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/round", "more than 3 redirections"),
        ("/inside", "169.254.169.254 is not asked"),
        ("/gone", "status 404"),
        ("/huge", "more than 1048576 bytes"),
        ("/garbage", "http://127.0.0.1"),
        ("/short", "http://127.0.0.1"),
        ("/silent", "no answer in 0.2 s"),
    ],
)
async def test_what_is_no_document(path, text):
    assert text in await fetched(path, 0.2 if path == "/silent" else 5.0)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://localhost:1/x", "x://y"])
async def test_where_nobody_is_asked(url):
    with pytest.raises(FetchError):
        await WebFetch().get(url, 5.0)


def test_a_file_without_certificates_is_named(tmp_path):
    with pytest.raises(SettingsError, match="JWKS_EXTRA_ROOT_CA"):
        WebFetch(str(tmp_path / "none"))
