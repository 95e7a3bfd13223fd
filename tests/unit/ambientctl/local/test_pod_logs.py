"""What ``kubectl logs`` shows of a log file."""

from __future__ import annotations

import trio

from ambientctl.local.pod_logs import LogWish, read_log

OLD = b"2020-01-01T00:00:00.000001Z stdout F old\n"
NEW = b"2999-01-01T00:00:00.000001Z stderr F new\n"


async def read(path, **wish):
    return b"".join([piece async for piece in read_log(path, LogWish(**wish))])


async def test_a_log_is_shown_as_it_was_written(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(OLD + NEW)
    assert await read(path) == b"old\nnew\n"
    assert await read(path, tail_lines=1) == b"new\n"
    assert await read(path, tail_lines=0) == b""
    assert await read(path, since_seconds=60) == b"new\n"
    assert await read(path, limit_bytes=5) == b"old\nn"
    assert await read(path, timestamps=True, tail_lines=1) == b"2999-01-01T00:00:00.000001Z new\n"


async def test_a_container_that_wrote_nothing_yet_has_an_empty_log(tmp_path):
    assert await read(tmp_path / "absent.log") == b""


async def test_a_followed_log_goes_on_until_its_file_is_gone(tmp_path, autojump_clock):
    path = tmp_path / "a.log"
    path.write_bytes(OLD)
    seen = bytearray()

    async def follow():
        async for piece in read_log(path, LogWish(follow=True)):
            seen.extend(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(1)
        with path.open("ab") as file:
            file.write(NEW[:30])
            file.flush()
            await trio.sleep(1)
            assert seen == b"old\n"
            file.write(NEW[30:])
        await trio.sleep(1)
        path.unlink()
    assert seen == b"old\nnew\n"
