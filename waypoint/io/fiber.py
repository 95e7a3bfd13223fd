"""Coroutines that run in the relay's turns until they need a task of trio's.

A request waits for bytes, and for nothing else, as long as nothing unusual happens to it; a task
switch for each wait would cost more than what is done in between. So the stages of a request are
written once, as coroutines, and have two drivers:

- In a *fiber* (``drive``, ``Fiber``) they wait for a ``Signal`` and are carried on in the turn in
  which it comes.
- Inside ``async with in_task():`` the same coroutine runs in a task, where everything of trio's may
  be waited for: a dial, a pause, two directions at once. Outside of fibers this changes nothing.

``Signal`` and ``Limit`` work in both and without a fiber; other waiting belongs into ``in_task``.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Generator
from enum import Enum
from types import TracebackType, coroutine
from typing import Any, Final, Protocol

import trio

from ambient.hbone.io.relay import Relay
from ambient.hbone.io.timers import Hold


class _Trap(Enum):
    """What a coroutine of a fiber says when it stops."""

    WAIT = "a signal"
    TASK = "a task"
    BACK = "the relay's turns again"


_WAIT: Final = _Trap.WAIT
_current: Fiber | None = None
"""The fiber that runs; None in tasks."""


class Stopped(BaseException):
    """A limit was reached in a fiber; only the limit itself catches it."""

    def __init__(self, limit: Limit) -> None:
        super().__init__("a limit was reached")
        self.limit = limit


def now_s() -> float:
    """Seconds of trio's clock; in a fiber, when its turn began."""
    fiber = _current
    return trio.current_time() if fiber is None else fiber.relay.now_s


@coroutine
def _stop(trap: _Trap) -> Generator[_Trap, None, None]:
    yield trap


class Owner(Protocol):
    """Who started a fiber."""

    def need_task(self, fiber: Fiber) -> None:
        """Have ``fiber.carry`` run in a task."""

    def ended(self, fiber: Fiber, error: BaseException | None) -> None:
        """It is over."""


class Fiber:
    """``main`` in the turns of ``relay``."""

    __slots__ = ("_coro", "_owner", "_queued", "_waiting", "alerted", "done", "limits", "relay")

    def __init__(self, relay: Relay, main: Coroutine[Any, Any, None], owner: Owner) -> None:
        self.relay = relay
        self._coro = main
        self._owner = owner
        self._queued = False
        self._waiting = True
        """Nobody runs it, and a signal may carry it on."""
        self.done = False
        self.limits: list[Limit] = []
        self.alerted = False
        """A limit was reached, now or before: look which."""

    def wake(self) -> None:
        """Carry it on in this turn, when all that has arrived is known."""
        if not self._queued and self._waiting:
            self._queued = True
            self.relay.soon(self.resume)

    def resume(self) -> None:
        """Run until it waits, needs a task, or ends."""
        global _current
        self._queued = False
        if not self._waiting:
            return
        self._waiting = False
        before, _current = _current, self
        try:
            trap = self._throw() if self.alerted else self._coro.send(None)
            while self.alerted and trap is _WAIT and self._reached() is not None:
                trap = self._throw()
        except StopIteration:
            self._finish(None)
        except BaseException as error:  # noqa: BLE001 - as in a task: whoever waits for the end gets it
            self._finish(error)
        else:
            if trap is _WAIT:
                self._waiting = True
            elif trap is _Trap.TASK:
                self._owner.need_task(self)
            else:
                self._coro.close()
                self._finish(RuntimeError(f"{trap} outside of in_task"))
        finally:
            _current = before

    def _throw(self) -> object:
        """Go on, with the limit that was reached if one was."""
        reached = self._reached()
        if reached is not None:
            return self._coro.throw(Stopped(reached))
        return self._coro.send(None)

    def _reached(self) -> Limit | None:
        for limit in self.limits:
            if limit.reached:
                return limit
        return None

    def _finish(self, error: BaseException | None) -> None:
        self.done = True
        self._waiting = False
        self._owner.ended(self, error)

    def close(self) -> None:
        """Give it up, if no task runs it."""
        if self._waiting:
            self._coro.close()
            self._finish(None)

    async def carry(self, error: BaseException | None = None) -> None:
        """Run it in this task until it leaves ``in_task`` or ends; ``error`` is raised in it."""
        self._waiting = False
        await self._carry(error)

    @coroutine
    def _carry(self, error: BaseException | None) -> Generator[Any, Any, None]:
        coro, value = self._coro, None
        while True:
            try:
                trap = coro.send(value) if error is None else coro.throw(error)
            except StopIteration:
                self._finish(None)
                return
            except trio.Cancelled:
                self._finish(None)
                raise
            except BaseException as failure:  # noqa: BLE001 - told to who waits for the end
                self._finish(failure)
                return
            if trap is _Trap.BACK:
                self._waiting = True
                self.wake()
                return
            error, value = None, None
            try:
                value = yield trap
            except BaseException as thrown:  # noqa: BLE001 - trio's, for the coroutine
                error = thrown


async def drive(relay: Relay, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` as a fiber, and in this task where it needs one. Raises what it raises."""
    await _Driver().run(relay, main)


class _Driver:
    """A task that owns one fiber."""

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()
        self._needed = False
        self._failure: BaseException | None = None

    def need_task(self, fiber: Fiber) -> None:
        self._needed = True
        self._lot.unpark_all()

    def ended(self, fiber: Fiber, error: BaseException | None) -> None:
        self._failure = error
        self._lot.unpark_all()

    async def run(self, relay: Relay, main: Coroutine[Any, Any, None]) -> None:
        fiber = Fiber(relay, main, self)
        relay.now_s = trio.current_time()
        fiber.resume()
        while not fiber.done:
            if self._needed:
                self._needed = False
                await fiber.carry()
                continue
            try:
                await self._lot.park()
            except trio.Cancelled as cancelled:
                if not fiber.done:
                    await fiber.carry(cancelled)
                raise
        if self._failure is not None:
            raise self._failure


class Signal:
    """One coroutine waits until another wakes it. It may be woken for nothing: look again."""

    __slots__ = ("_fiber", "_lot")

    def __init__(self) -> None:
        self._fiber: Fiber | None = None
        self._lot: trio.lowlevel.ParkingLot | None = None

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        """Until ``wake``."""
        fiber = _current
        if fiber is not None:
            self._fiber = fiber
            yield _WAIT
            return
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        yield from self._lot.park().__await__()

    def wake(self) -> None:
        """Whoever waits goes on."""
        fiber = self._fiber
        if fiber is not None:
            self._fiber = None
            fiber.wake()
        if self._lot:
            self._lot.unpark_all()


class in_task:  # noqa: N801 - reads like a function
    """``async with in_task():`` - the block runs in a task."""

    __slots__ = ("_fiber", "_scopes")

    async def __aenter__(self) -> None:
        self._fiber = fiber = _current
        if fiber is not None:
            await _stop(_Trap.TASK)
            self._scopes = [limit.enter_scope() for limit in fiber.limits]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fiber = self._fiber
        if fiber is None:
            return
        reached = None
        for limit, scope in zip(reversed(fiber.limits), reversed(self._scopes), strict=True):
            limit.scope = None
            scope.__exit__(kind, error, trace)
            if scope.cancelled_caught:
                kind = error = trace = None
                reached, limit.reached = limit, True
                fiber.alerted = True
        if error is None or isinstance(error, Exception):
            await _stop(_Trap.BACK)
        if reached is not None:
            raise Stopped(reached)


class Limit:
    """As ``trio.CancelScope``: what is inside ends at ``deadline``, or when ``cancel`` is called;
    ``cancelled_caught`` tells so afterwards. A fiber ends up to a tenth of a second late."""

    __slots__ = ("_fiber", "_hold", "_own", "cancelled_caught", "deadline_s", "reached", "scope")

    def __init__(self, deadline_s: float = math.inf) -> None:
        self.deadline_s = deadline_s
        """In seconds of trio's clock; to be changed by ``move`` inside of the limit."""
        self._fiber: Fiber | None = None
        self._hold: Hold | None = None
        self._own: trio.CancelScope | None = None
        self.scope: trio.CancelScope | None = None
        """While a task runs what is inside."""
        self.reached = False
        self.cancelled_caught = False

    def move(self, when_s: float) -> None:
        """Another deadline from now on."""
        self.deadline_s = when_s
        if self.scope is not None:
            self.scope.deadline = when_s
        if self._fiber is None:
            return
        timers = self._fiber.relay.timers
        if self._hold is not None:
            timers.take_back(self._hold)
            self._hold = None
        if when_s != math.inf:
            self._hold = timers.set(when_s, self, now_s())

    def ring(self) -> None:
        """See ``Alarm``."""
        self._hold = None
        self.cancel()

    def cancel(self) -> None:
        """End what is inside."""
        self.reached = True
        fiber = self._fiber
        if fiber is not None:
            fiber.alerted = True
        if self.scope is not None:
            self.scope.cancel()
        elif fiber is not None:
            fiber.wake()

    def enter_scope(self) -> trio.CancelScope:
        """A task takes over: the same limit for it."""
        scope = self.scope = trio.CancelScope(deadline=self.deadline_s)
        if self.reached:
            scope.cancel()
        return scope.__enter__()

    def __enter__(self) -> Limit:
        fiber = _current
        if fiber is None:
            self._own = self.enter_scope()
        else:
            self._fiber = fiber
            fiber.limits.append(self)
            fiber.alerted = fiber.alerted or self.reached
            if self.deadline_s != math.inf:
                relay = fiber.relay
                self._hold = relay.timers.set(self.deadline_s, self, relay.now_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._own is not None:
            caught = bool(self._own.__exit__(kind, error, trace))
            self.scope = None
            self.cancelled_caught = self._own.cancelled_caught
            return caught
        assert self._fiber is not None
        self._fiber.limits.remove(self)
        if self._hold is not None:
            self._fiber.relay.timers.take_back(self._hold)
        self._fiber = None
        self.cancelled_caught = isinstance(error, Stopped) and error.limit is self
        return self.cancelled_caught
