"""Packets and descriptors between agent and ztunnel."""

import os
import socket
from array import array

import pytest
import trio

from ambient.api.errors import MeshError, UnavailableError
from ambient.net.io.agent_socket import AgentListener, AgentSocket, PacketError


@pytest.fixture
async def pair(tmp_path):
    with AgentListener.bind(tmp_path / "zds.sock") as listener:
        client = await AgentSocket.connect(tmp_path / "zds.sock")
        with client, await listener.accept() as server:
            yield client, server


async def test_packets_keep_their_borders(pair):
    client, server = pair
    await client.send(b"one")
    await client.send(b"two")
    assert await server.recv() == (b"one", None)
    assert await server.recv() == (b"two", None)


async def test_a_descriptor_travels_and_is_the_receivers(pair):
    client, server = pair
    read_end, write_end = os.pipe()
    await server.send(b"take", write_end)
    os.close(write_end)
    data, fd = await client.recv()
    assert data == b"take"
    os.write(fd, b"x")
    assert os.read(read_end, 1) == b"x"
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(read_end)


async def test_the_end_of_the_peer_is_an_empty_packet(pair):
    client, server = pair
    client.close()
    assert await server.recv() == (b"", None)


async def test_two_descriptors_are_refused_and_closed(pair):
    client, server = pair
    read_end, write_end = os.pipe()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [write_end, write_end]))
    await client._socket.sendmsg([b"x"], [rights])
    os.close(write_end)
    with pytest.raises(PacketError, match="2 descriptors"):
        await server.recv()
    assert os.read(read_end, 1) == b""  # no copy of the write end is left
    os.close(read_end)


async def test_a_packet_over_the_limit_is_refused_on_both_ends(pair):
    client, server = pair
    with pytest.raises(PacketError):
        await client.send(b"x" * 1025)
    await client._socket.send(b"x" * 1025)
    with pytest.raises(PacketError, match="longer"):
        await server.recv()


async def test_the_kernel_vouches_for_the_peer(pair):
    _, server = pair
    assert server.peer().pid == os.getpid()


async def test_a_missing_agent_is_named_with_the_remedy(tmp_path):
    with pytest.raises(UnavailableError, match=r"zds\.sock") as caught:
        await AgentSocket.connect(tmp_path / "zds.sock")
    assert "ambient-cni-agent" in caught.value.hint


async def test_a_stale_socket_is_replaced_and_a_served_one_is_not(tmp_path):
    path = tmp_path / "zds.sock"
    crashed = AgentListener.bind(path)
    crashed._socket.close()
    with AgentListener.bind(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(MeshError, match="another node agent"):
            AgentListener.bind(path)
    assert not path.exists()


async def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(MeshError, match="cannot listen on"):
        AgentListener.bind(tmp_path / "no" / "zds.sock")


async def test_serve_gives_each_peer_a_task_and_closes_after_it(tmp_path):
    async def shout(peer):
        data, _ = await peer.recv()
        await peer.send(data.upper())

    with AgentListener.bind(tmp_path / "s") as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, shout, nursery)
            with await AgentSocket.connect(tmp_path / "s") as client:
                await client.send(b"hey")
                assert await client.recv() == (b"HEY", None)
                assert await client.recv() == (b"", None)
            nursery.cancel_scope.cancel()
