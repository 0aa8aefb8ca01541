"""One coordinator at a time, and requests from another terminal."""

import datetime
import os
import socket
import threading
import time

import optuna
import pytest

from tunesmith.errors import OutcomeError, StudyError
from tunesmith.sweep import control, lease
from tunesmith.sweep.clock import KEY as WALL
from tunesmith.sweep.clock import Clock
from tunesmith.sweep.lease import KEY, Lease
from tunesmith.tracking import runs


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")


def holder(**changes):
    started = runs.process_start(os.getpid())
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "token": "t"}
    return {**mine, "beat": lease.now().isoformat(), **changes}


def test_a_study_has_one_coordinator(study):
    with Lease(study), pytest.raises(StudyError, match=f"s: is run by process {os.getpid()} on"):
        Lease(study).__enter__()
    with Lease(study):
        pass
    assert study.user_attrs[KEY] is None


@pytest.mark.parametrize(
    ("changes", "live"),
    [
        ({}, True),
        ({"pid": 2**22 + 1}, False),
        ({"started": "1"}, False),
        ({"host": "elsewhere"}, True),
        ({"host": "elsewhere", "beat": (lease.now() - datetime.timedelta(seconds=121)).isoformat()}, False),
    ],
)
def test_a_dead_coordinator_is_told_by_its_process_or_by_its_beat(changes, live):
    assert lease.is_live(holder(**changes)) is live


def test_one_that_slept_past_its_lease_is_fenced_off(study):
    with Lease(study) as late:
        study.set_user_attr(KEY, holder(host="elsewhere", token="another"))
        with pytest.raises(OutcomeError, match="another process has taken this sweep over"):
            late.check()
    assert study.user_attrs[KEY]["token"] == "another"


def test_a_killed_process_leaves_its_wall_time_and_the_next_adds_its_own(study, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    study.set_user_attr(WALL, 100.0)
    held = Lease(study, also=Clock(study).note)
    held.__enter__()
    until = time.monotonic() + 10
    while study.user_attrs[WALL] == 100.0 and time.monotonic() < until:
        time.sleep(0.02)
    left = study.user_attrs[WALL]  # were it killed now
    assert 100.0 < left < 110
    held.__exit__()
    assert study.user_attrs[WALL] >= left
    assert Clock(study).seconds >= left


def test_one_that_was_fenced_off_leaves_the_wall_time_alone(study):
    with Lease(study, also=Clock(study).note):
        study.set_user_attr(KEY, holder(host="elsewhere", token="another"))
    assert WALL not in study.user_attrs


def test_requests_are_heeded_once_and_in_order(study):
    heard, done = [], threading.Event()

    def heed(request):
        heard.append(request)
        if len(heard) == 2:
            done.set()

    with Lease(study), control.Desk(study, heed, print):
        control.ask(study, "pause")
        control.ask(study, "add", params={"x": 1})
        assert done.wait(10)
    assert heard == [{"kind": "pause"}, {"kind": "add", "params": {"x": 1}}]
    assert control.pending(study) == {}


def test_a_request_that_fails_is_noted_and_the_next_one_heeded(study):
    heard, noted, done = [], [], threading.Event()

    def heed(request):
        if request["kind"] == "add":
            raise KeyError(request["kind"])
        heard.append(request)
        done.set()

    with Lease(study), control.Desk(study, heed, noted.append):
        control.ask(study, "add", params={"x": 1})
        control.ask(study, "stop")
        assert done.wait(10)
    assert heard == [{"kind": "stop"}]
    assert noted == ["a request from another terminal failed (add: KeyError: 'add'); ask again"]
    assert control.pending(study) == {}


def test_a_request_that_nobody_could_heed_is_refused(study):
    with pytest.raises(StudyError, match="no process runs this sweep; go on with it by --resume"):
        control.ask(study, "stop")


def test_what_was_asked_of_a_dead_process_is_not_done_by_the_next(study):
    study.set_user_attr("request-1", {"kind": "stop"})
    heard = []
    with control.Desk(study, heard.append, print):
        pass
    assert heard == []
    assert control.pending(study) == {}
