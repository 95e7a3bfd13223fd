"""The server's side of a delta stream: requests and changes in, responses out."""

import pytest

from ambient.xds.core.delta_server import (
    MAX_NAMES,
    DeltaStream,
    Request,
    Sent,
    StreamRefusedError,
)

URL = "type/A"


class Mesh:
    """Three workloads, of which ``a`` and ``b`` are behind alias ``/10.0.0.1``; ``n`` is near."""

    def __init__(self, **versions):
        self.versions = versions
        self.aliases = {"/10.0.0.1": ["a", "b"]}
        self.near = []

    def names(self):
        return self.versions.keys()

    def get(self, name):
        version = self.versions.get(name)
        return Sent(name, version, b"") if version else None

    def find(self, name):
        names = [name] if name in self.versions else self.aliases.get(name, [])
        return [one for one in names if one in self.versions]

    def unasked(self):
        return self.near


@pytest.fixture
def mesh():
    return Mesh(a="1", b="1", c="1")


@pytest.fixture
def stream():
    return DeltaStream("x/")


def ask(stream, mesh, **fields):
    return stream.request(Request(type_url=URL, **fields), mesh)


def told(response):
    return (
        None
        if response is None
        else ([one.name for one in response.resources], list(response.removed))
    )


def test_the_first_request_is_always_answered(stream):
    assert told(ask(stream, Mesh())) == ([], [])


def test_wildcard_gets_everything_then_changes(stream, mesh):
    first = ask(stream, mesh)
    assert told(first) == (["a", "b", "c"], [])
    assert ask(stream, mesh, nonce=first.nonce) is None
    mesh.versions = {"a": "2", "c": "1"}
    assert told(stream.changed(URL, ["a", "b"], mesh)) == (["a"], ["b"])
    assert stream.changed(URL, [], mesh) is None
    assert stream.changed("type/never-asked", ["a"], mesh) is None


def test_nonces_are_unique_and_acks_are_noted(stream, mesh):
    first = ask(stream, mesh)
    second = stream.changed(URL, ["a"], mesh)
    assert first.nonce != second.nonce
    state = stream.types[URL]
    assert state.status == "STALE"
    ask(stream, mesh, nonce=first.nonce)
    assert (stream.stale_nonces, state.status) == (1, "STALE")
    ask(stream, mesh, nonce=second.nonce)
    assert state.status == "SYNCED"


def test_a_nack_is_noted_and_not_answered(stream, mesh):
    first = ask(stream, mesh)
    assert ask(stream, mesh, nonce=first.nonce, error="a: bad field") is None
    assert (stream.types[URL].status, stream.types[URL].error) == ("ERROR", "a: bad field")
    second = stream.changed(URL, ["a"], mesh)
    ask(stream, mesh, nonce=second.nonce)
    assert stream.types[URL].status == "SYNCED"


def test_reconnect_sends_only_what_is_different(stream, mesh):
    response = ask(stream, mesh, initial_versions={"a": "1", "b": "0", "gone": "1"})
    assert told(response) == (["b", "c"], ["gone"])


def test_star_may_be_asked_for_by_name(stream, mesh):
    assert told(ask(stream, mesh, subscribe=("*",))) == (["a", "b", "c"], [])


def test_on_demand_handshake_gets_nothing_but_its_own_node(stream, mesh):
    mesh.near = ["c"]
    first = ask(stream, mesh, subscribe=("*",), unsubscribe=("*",))
    assert told(first) == (["c"], [])
    assert not stream.types[URL].wildcard


def test_by_name(stream, mesh):
    ask(stream, mesh, subscribe=("*",), unsubscribe=("*",))
    assert told(ask(stream, mesh, subscribe=("a",))) == (["a"], [])
    assert told(ask(stream, mesh, subscribe=("/10.0.0.1",))) == (["a", "b"], [])
    assert told(ask(stream, mesh, subscribe=("nobody", "/10.9.9.9"))) == (
        [],
        ["/10.9.9.9", "nobody"],
    )
    assert stream.changed(URL, ["c"], mesh) is None
    assert told(stream.changed(URL, ["a", "c"], mesh)) == (["a"], [])


def test_by_name_hears_of_what_comes_later(stream, mesh):
    """A new pod behind a known address, and a name that did not exist when asked for."""
    ask(stream, mesh, subscribe=("/10.0.0.1", "late"))
    mesh.aliases["/10.0.0.1"].append("d")
    mesh.versions |= {"d": "1", "late": "1"}
    assert told(stream.changed(URL, ["d", "late"], mesh)) == (["d", "late"], [])
    mesh.near = ["c"]
    assert told(stream.changed(URL, ["c"], mesh)) == (["c"], [])


def test_unsubscribed_names_are_not_told_any_more(stream, mesh):
    ask(stream, mesh, subscribe=("a", "b"))
    response = ask(stream, mesh, unsubscribe=("a",))
    assert told(response) == ([], [])
    assert stream.changed(URL, ["a"], mesh) is None
    assert told(stream.changed(URL, ["b"], mesh)) == (["b"], [])


def test_wildcard_may_ask_again_for_one(stream, mesh):
    ask(stream, mesh)
    assert told(ask(stream, mesh, subscribe=("a", "nobody"))) == (["a"], ["nobody"])
    assert ask(stream, mesh, subscribe=("*",)) is None
    assert ask(stream, mesh, unsubscribe=("a",)) is None


def test_tracked_types_are_compared_with_what_the_client_holds(mesh):
    stream = DeltaStream("x/", tracked=(URL,))
    ask(stream, mesh, initial_versions={"a": "1"})
    assert stream.changed(URL, ["a", "b"], mesh) is None
    mesh.versions = {"b": "2", "c": "1", "d": "1"}
    assert told(stream.changed(URL, [], mesh)) == (["b", "d"], ["a"])
    assert stream.changed(URL, [], mesh) is None


def test_names_have_a_limit(stream, mesh):
    with pytest.raises(StreamRefusedError):
        ask(stream, mesh, subscribe=tuple(map(str, range(MAX_NAMES + 1))))
