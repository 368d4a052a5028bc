"""Interrupts wait for safe points, and are never lost there."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from itograd.simulation.interrupt import deferred, safe_point, wait_for


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_a_safe_point():
    reached, before = [], signal.getsignal(signal.SIGINT)  # not Python's own where the shell ignores interrupts

    def work():
        with deferred():
            interrupt()
            reached.append("after")
            safe_point()
            reached.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after"]
    safe_point()  # nothing waits any more
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_does_not_wait():
    reached = []

    def work():
        with deferred():
            interrupt()
            reached.append("first")
            interrupt()
            reached.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["first"]


def test_waiting_is_a_safe_point_and_gives_the_result_or_the_error():
    def work(pool):
        with deferred():
            interrupt()
            wait_for(pool.submit(lambda: 3))

    with ThreadPoolExecutor(1) as pool:
        assert wait_for(pool.submit(lambda: 3)) == 3
        with pytest.raises(TimeoutError, match="the task's own"):
            wait_for(pool.submit(_fail))
        with pytest.raises(KeyboardInterrupt):
            work(pool)


class DoneAtTheLastMoment(Future):
    """Finishes between the end of a wait and the question whether it is done."""

    def result(self, timeout=None):
        if timeout is not None:
            self.set_result(3)
            raise TimeoutError
        return super().result()


def test_a_task_that_ends_as_a_wait_does_gives_its_result():
    assert wait_for(DoneAtTheLastMoment()) == 3


def _fail():
    raise TimeoutError("the task's own")
