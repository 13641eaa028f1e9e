"""A process that ends is started again after a growing pause, and its last words are shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.run import ROOT
from demo.supervisor import HEALTHY_S, PAUSE_S_MAX, Job, Supervisor, last_words


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def supervisor(tmp_path, clock):
    supervisor = Supervisor(tmp_path, tmp_path, clock)
    yield supervisor
    for child in supervisor.running():
        child.kill()


def job(code, **options):
    return Job("job", (sys.executable, "-c", code), {}, **options)


def end(supervisor):
    """Wait for the running process to end, and notice it."""
    supervisor.jobs["job"].child.process.wait(10)
    supervisor.tick()
    return supervisor.jobs["job"]


def test_a_process_that_fails_says_why_and_starts_again_after_a_pause(supervisor, clock):
    supervisor.add([job("raise SystemExit('the topic is missing')")])
    each = end(supervisor)
    assert each.reason == "ended with 1: the topic is missing"
    supervisor.tick()
    assert each.child is None
    clock.now += 1.0
    supervisor.tick()
    assert each.child is not None
    assert each.reason == ""


def test_pauses_double_up_to_half_a_minute_and_shrink_after_a_healthy_run(supervisor, clock):
    supervisor.add([job("pass")])
    pauses = []
    for _ in range(8):
        each = end(supervisor)
        pauses.append(each.start_again_at - clock.now)
        clock.now = each.start_again_at
        supervisor.tick()
    assert pauses == [1, 2, 4, 8, 16, PAUSE_S_MAX, PAUSE_S_MAX, PAUSE_S_MAX]
    clock.now += HEALTHY_S + 1
    each = end(supervisor)
    assert each.start_again_at - clock.now == 1


def test_a_job_that_may_end_is_not_started_again(supervisor, clock):
    supervisor.add([job("pass", once=True)])
    each = end(supervisor)
    clock.now += 100
    supervisor.tick()
    assert each.finished
    assert each.child is None
    assert each.reason == ""


def test_what_must_happen_before_a_start_happens_before_each(supervisor, clock):
    calls = []
    supervisor.add([job("pass", before=lambda: calls.append(1))])
    each = end(supervisor)
    clock.now = each.start_again_at
    supervisor.tick()
    assert calls == [1, 1]


def test_a_dropped_job_is_asked_to_stop_and_forgotten(supervisor):
    supervisor.add([job("import time; time.sleep(60)")])
    child = supervisor.drop("job")
    assert child.process.wait(10) < 0
    supervisor.tick()
    assert supervisor.jobs == {}
    assert supervisor.drop("job") is None


def test_a_job_ends_at_once_with_a_supervisor_that_is_killed_whatever_it_is_waiting_for(tmp_path, wait_for):
    stubborn = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"""if True:
        import sys, time
        from pathlib import Path
        from demo.supervisor import Job, Supervisor
        folder = Path({str(tmp_path)!r})
        Supervisor(folder, folder).add([Job("job", (sys.executable, "-c", {stubborn!r}), {{}})])
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT)
    try:
        log = tmp_path / "job.log"
        pid = wait_for(lambda: log.exists() and log.read_text().strip(), 20, "the job to start")
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not Path("/proc", pid).exists(), 5, "the job to end")


def test_the_last_words_of_a_flow_are_its_sentence(tmp_path):
    log = tmp_path / "log"
    lines = [
        "Traceback ...",
        json.dumps({"event": "flow_stopped", "why": "Topic x is missing."}),
        '{"event": "stopped"}',
    ]
    log.write_text("\n".join(lines))
    assert last_words(log) == "Topic x is missing."
    log.write_text("one\n\n")
    assert last_words(log) == "one"
    log.write_text("")
    assert last_words(log) == "it said nothing"
    assert last_words(tmp_path / "none") == "it left no log"


def test_a_killed_process_starts_again_at_once(supervisor):
    supervisor.add([job("import time; time.sleep(60)")])
    first = supervisor.jobs["job"].child
    supervisor.kill("job")
    assert not first.alive
    assert supervisor.jobs["job"].reason == "was killed"
    supervisor.tick()
    assert supervisor.jobs["job"].child.alive
    assert supervisor.jobs["job"].reason == ""
