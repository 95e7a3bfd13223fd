"""One task a connection; one that fails takes no other with it."""

import trio

from ambient.api.address import HostPort
from ambient.net.io.sockets import ListenOptions, connect_in, listen_in
from ambient.telemetry.io import logs
from ztunnel.io.accept import Acceptor


async def test_a_handler_that_fails_is_logged_and_the_next_one_served(capsys):
    logs.configure()
    served = []

    async def handler(sock):
        served.append(sock)
        if len(served) == 1:
            raise RuntimeError("a fault of ours")
        await trio.sleep_forever()

    listener = listen_in(None, 0, ListenOptions(transparent=False, host="127.0.0.1"))
    target = HostPort("127.0.0.1", listener.port)
    with listener.socket:
        async with trio.open_nursery() as connections:
            connections.start_soon(Acceptor(listener.socket, handler, connections).run)
            with await connect_in(None, target), await connect_in(None, target):
                with trio.fail_after(30):
                    while len(served) < 2 or served[0].fileno() != -1:
                        await trio.sleep(0.005)
                assert served[1].fileno() != -1
            connections.cancel_scope.cancel()
    assert served[1].fileno() == -1
    assert "conn.crashed" in capsys.readouterr().out


async def test_what_waits_in_the_queue_is_accepted_before_the_close():
    served = []

    async def handler(sock):
        served.append(sock.getpeername())

    listener = listen_in(None, 0, ListenOptions(transparent=False, host="127.0.0.1"))
    with listener.socket, await connect_in(None, HostPort("127.0.0.1", listener.port)) as client:
        async with trio.open_nursery() as connections:
            Acceptor(listener.socket, handler, connections).close()
        assert served == [client.getsockname()]
        assert listener.socket.fileno() == -1
