"""What the demo may kill, and when it counts as back."""

from types import SimpleNamespace

import pytest

from demo.kill import PROCESSES, SYSTEMS, Killer
from demo.services.children import ServiceFailed


class Server:
    def __init__(self):
        self.child, self.done = object(), []

    def kill(self):
        self.done.append("kill")

    def spawn(self):
        self.done.append("spawn")

    def wait_ready(self):
        self.done.append("ready")


class Supervised:
    def __init__(self, names):
        self.jobs = {name: SimpleNamespace(child=SimpleNamespace(alive=True)) for name in names}
        self.killed = []

    def kill(self, name):
        self.killed.append(name)


class Standing:
    """Positions that stand still until they are moved."""

    def __init__(self):
        self.offset = 0

    def of(self, sink=""):
        return {0: self.offset}

    ends = of


@pytest.fixture
def killer():
    made = Killer(Supervised(["capture", "redis"]), SimpleNamespace(servers={"kafka": Server()}), Standing(), None)
    yield made
    made.stop()


def test_a_key_kills_what_it_names_and_nothing_that_is_not_there(killer):
    for key in "crbK?P":
        killer.press(key)
    assert killer.supervisor.killed == ["capture", "redis"]
    assert killer.systems.servers["kafka"].done[:2] == ["kill", "spawn"]
    assert [kill.name for kill in killer.kills] == ["capture", "redis", "Kafka"]


def test_who_was_killed_is_back_when_its_position_moves_also_for_the_kill_before(killer, wait_for):
    killer.press("r")
    killer.press("r")
    wait_for(lambda: killer._looking["redis"] is not None, message="the first look")
    assert not killer.settled()
    killer.positions.offset = 7
    wait_for(killer.settled, message="it to be back")
    assert "back at work after" in str(killer.kills[0])


def test_every_key_kills_one_thing():
    assert not PROCESSES.keys() & SYSTEMS.keys()


def test_near_the_end_the_timer_kills_nothing_more(killer):
    killer.every_s, killer._next = 0.0, 0.0
    killer.tick(left_s=1.0)
    assert killer.kills == []
    killer.tick(left_s=60.0)
    assert len(killer.kills) == 1


def test_a_system_that_could_not_start_is_started_again(killer, wait_for):
    server = killer.systems.servers["kafka"]
    failures = [ServiceFailed("its shared memory is still in use")]

    def wait_ready():
        if failures:
            raise failures.pop()

    server.wait_ready = wait_ready
    killer.press("K")
    assert killer.coming_back == {"kafka"}

    def back():
        killer.tick(left_s=None)
        return killer.settled() and not killer.coming_back

    wait_for(back, message="Kafka to be back")
    assert server.done == ["kill", "spawn", "spawn"]
