"""The loop: work, kill -9 at a random moment, start again, look for every acknowledged write.

``ROUNDS`` (default 10) is the number of kills per test, ``SEED`` the seed of every choice. The kill
falls after a seeded number of answers, between sending and receiving or the other way round, while
two dozen requests are in flight; where exactly it meets the server is the machine's choice.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.crash.client import Client
from tests.crash.journal import SECTOR_BYTES, Journal, Lost
from tests.crash.victims import VOLUME, NodeVictim, PeerVictim, Victim
from tests.support.nbdwire import Disconnected

ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "1"))
VOLUME_BYTES = 64 << 20
SECTORS = VOLUME_BYTES // SECTOR_BYTES
ANSWERS_MAX = 4000
ANSWERS_AFTER_KILL = 300
# A second kill falls into the first's recovery, which takes about this long.
RECOVERY_SECONDS = 1.0


@contextlib.contextmanager
def explained(victim: Victim, round_number: int) -> Iterator[None]:
    """Add what is needed to understand and repeat a failure."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(
            f"SEED={SEED}, round {round_number}: {error}\n{victim.logs()}"
        ) from error


def work_until_killed(client: Client, victim: Victim, chaos: random.Random) -> None:
    """Run a random while, kill with requests in flight; return when the client noticed."""
    client.run(chaos.randrange(1, ANSWERS_MAX))
    with contextlib.suppress(Disconnected):
        if chaos.random() < 0.5:
            client.fill()
        victim.kill9()
        # What the server had sent before it died still counts as answered.
        client.settle()
    client.disconnect()


def restart(victim: Victim, chaos: random.Random) -> None:
    """Start the server; every third time kill it once more while it recovers."""
    if chaos.randrange(3) == 0:
        victim.start(wait=False)
        time.sleep(chaos.random() * RECOVERY_SECONDS)
        victim.kill9()
    victim.start()


def kill_rounds(victim: Victim, rounds: int) -> Client:
    """The loop for a client whose connection dies with the server."""
    chaos = random.Random(SEED)
    client = Client(Journal(SECTORS), SEED)
    client.connect(*victim.endpoint())
    for number in range(rounds):
        with explained(victim, number):
            work_until_killed(client, victim, chaos)
            restart(victim, chaos)
            client.connect(*victim.endpoint())
            client.verify()
    return client


def test_acknowledged_writes_survive_kill9() -> None:
    with NodeVictim(VOLUME_BYTES, direct=True) as victim:
        client = kill_rounds(victim, ROUNDS)
        client.disconnect()


def test_guest_of_the_edge_sees_no_error() -> None:
    """Through the Edge the connection never breaks, and every answer comes in the end."""
    chaos = random.Random(SEED)
    client = Client(Journal(SECTORS), SEED)
    with NodeVictim(VOLUME_BYTES, direct=False) as victim:
        client.connect(*victim.endpoint())
        for number in range(ROUNDS):
            with explained(victim, number):
                try:
                    client.run(chaos.randrange(1, ANSWERS_MAX))
                    client.fill()
                    victim.kill9()
                    restart(victim, chaos)
                    client.run(ANSWERS_AFTER_KILL)
                    client.verify()
                except Disconnected as error:
                    raise AssertionError(f"the Edge dropped its client: {error}") from error
        client.disconnect()


def test_edge_and_engine_die_together() -> None:
    """The client reconnects; nothing that the dead Edge had in flight may appear later."""
    chaos = random.Random(SEED)
    client = Client(Journal(SECTORS), SEED)
    with NodeVictim(VOLUME_BYTES, direct=False) as victim:
        client.connect(*victim.endpoint())
        for number in range(max(2, ROUNDS // 3)):
            with explained(victim, number):
                client.run(chaos.randrange(1, ANSWERS_MAX))
                client.fill()
                if number % 2 == 0:
                    victim.kill9_everything()
                    victim.start_everything()
                else:
                    victim.node.kill9_edge()
                    victim.node.start_edge()
                client.disconnect()
                client.connect(*victim.endpoint())
                client.verify()
        client.disconnect()


def test_snapshots_survive_kill9() -> None:
    """A snapshot holds what was acknowledged when it was taken, whatever died afterwards."""
    chaos = random.Random(SEED)
    client = Client(Journal(SECTORS), SEED)
    snapshots: dict[str, Journal] = {}
    with NodeVictim(VOLUME_BYTES, direct=True) as victim:
        client.connect(*victim.endpoint())
        for number in range(3):
            with explained(victim, number):
                client.run(chaos.randrange(1, ANSWERS_MAX))
                client.settle()
                victim.node.cli("volume", "snapshot", VOLUME, f"snap-{number}")
                snapshots[f"snap-{number}"] = client.journal.copy()
                work_until_killed(client, victim, chaos)
                restart(victim, chaos)
                client.connect(*victim.endpoint())
                client.verify()
        client.disconnect()
        for name, journal in snapshots.items():
            victim.node.cli("volume", "clone", f"{VOLUME}@{name}", f"clone-{name}")
            reader = Client(journal, SEED)
            reader.connect(*victim.node.attach(f"clone-{name}", direct=True))
            reader.verify()
            reader.disconnect()


def test_sigterm_drains_and_loses_nothing() -> None:
    client = Client(Journal(SECTORS), SEED)
    with NodeVictim(VOLUME_BYTES, direct=True) as victim:
        client.connect(*victim.endpoint())
        client.run(ANSWERS_MAX)
        client.fill()
        victim.drain()
        with contextlib.suppress(Disconnected):
            client.settle()
        client.disconnect()
        victim.start_everything()
        client.connect(*victim.endpoint())
        client.verify()
        client.disconnect()


def test_the_loop_passes_a_peer_that_keeps_its_word() -> None:
    with PeerVictim(VOLUME_BYTES, forgetful=False) as victim:
        kill_rounds(victim, 3).disconnect()


def test_the_loop_catches_a_peer_that_forgets() -> None:
    with (
        PeerVictim(VOLUME_BYTES, forgetful=True) as victim,
        pytest.raises(AssertionError) as failure,
    ):
        kill_rounds(victim, 3)
    assert isinstance(failure.value.__cause__, Lost)
