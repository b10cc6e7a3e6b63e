"""Locks by key: they exclude, they do not leak."""

from __future__ import annotations

import threading

from ovs_daemon.control.locks import Locks


def test_one_at_a_time_by_key() -> None:
    locks, inside, worst = Locks(), {"a": 0, "b": 0}, []

    def work(key: str) -> None:
        for _ in range(200):
            with locks.holding(key), locks.holding(key):
                inside[key] += 1
                worst.append(inside[key])
                inside[key] -= 1

    workers = [threading.Thread(target=work, args=(key,)) for key in "aabb"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert max(worst) == 1
    assert locks._locks == {}


def test_different_keys_do_not_wait() -> None:
    locks, entered = Locks(), threading.Event()

    def other() -> None:
        with locks.holding("b"):
            entered.set()

    with locks.holding("a"):
        worker = threading.Thread(target=other)
        worker.start()
        assert entered.wait(60)
        worker.join()
