"""What waits for a stream: requests first, changes merged, an end that wakes everybody."""

import threading

import pytest

from ambient.xds.core.delta_server import Request
from istiod_lite.core.snapshot import Delta
from istiod_lite.io.mailbox import MAX_REQUESTS, Closed, Mailbox


def test_requests_go_first_and_changes_are_merged():
    box = Mailbox()
    box.put_delta(Delta({"a": frozenset("x")}))
    box.put_delta(Delta({"a": frozenset("y")}))
    box.put_request(Request(type_url="a"))
    assert box.take() == Request(type_url="a")
    push = box.take()
    assert push.delta == Delta({"a": frozenset("xy")})
    assert 0 < push.since <= push.queued


def test_what_waits_is_still_taken_at_a_friendly_end():
    box = Mailbox()
    box.put_request(Request(type_url="a"))
    box.put_delta(Delta({"a": frozenset("x")}))
    box.finish()
    assert box.take() == Request(type_url="a")
    assert box.take().delta == Delta({"a": frozenset("x")})
    with pytest.raises(Closed):
        box.take()
    with pytest.raises(Closed):
        box.put_request(Request(type_url="a"))


def test_closing_wakes_the_taker():
    box = Mailbox()
    threading.Timer(0.01, box.close).start()
    with pytest.raises(Closed):
        box.take()


def test_a_flood_of_requests_waits_until_some_are_taken():
    box = Mailbox()
    done = threading.Event()

    def flood():
        for _ in range(MAX_REQUESTS + 1):
            box.put_request(Request(type_url="a"))
        done.set()

    thread = threading.Thread(target=flood)
    thread.start()
    assert not done.wait(0.05)
    box.take()
    assert done.wait(30)
    thread.join()
    box.close()
    with pytest.raises(Closed):
        box.put_request(Request(type_url="a"))
