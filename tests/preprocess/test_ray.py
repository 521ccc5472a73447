"""What the Ray executor makes of actors that stand still or end, with a stand-in for Ray itself; test_resume.py has Ray."""

import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.runtime import ray_executor


class Lost(Exception):
    """An actor ended."""


@dataclass(eq=False)
class Call:
    actor: Any
    name: str
    given: tuple
    hangs: bool = False


class Actor:
    def __init__(self, ray, made):
        self.ray, self.made, self.killed = ray, made, False

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *given: self.ray.call(self, name, given))


class Ray:
    """Calls are done one by one, in this process, when they are waited for. stands: the first worker at this piece
    never answers.
    """

    exceptions = SimpleNamespace(RayTaskError=type("RayTaskError", (Exception,), {}), RayError=Lost)

    def __init__(self, stands=None):
        self.stands = stands

    def put(self, job):
        return job

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: Actor(self, kind(*given))))

    def call(self, actor, name, given):
        call = Call(actor, name, given)
        if name == "run" and given[0] == self.stands:
            self.stands, call.hangs = None, True
            actor.made._note(0)
        return call

    def wait(self, calls, timeout):
        time.sleep(0.01)
        ready = [call for call in calls if call.actor.killed or not call.hangs][:1]
        return ready, [call for call in calls if call not in ready]

    def get(self, call):
        if call.actor.killed:
            raise Lost
        return getattr(call.actor.made, call.name)(*call.given)

    def kill(self, actor):
        actor.killed = True


@dataclass
class Pieces:
    """opens: of each actor in turn whether it lives through opening; dies: pieces whose first worker ends."""

    opens: list = field(default_factory=list)
    dies: set = field(default_factory=set)

    def open(self, worker):
        if self.opens and not self.opens.pop(0):
            raise Lost

    def run(self, opened, number, starting, skip=frozenset()):
        starting(0)
        if number in self.dies:
            self.dies.remove(number)
            raise Lost
        return number


def done(monkeypatch, ray, job, pieces, workers):
    monkeypatch.setitem(sys.modules, "ray", ray)
    return [number for number, _ in ray_executor._answers(ray, job, range(pieces), workers, 0.0)]


def test_a_worker_that_stands_still_is_ended_while_others_answer(monkeypatch):
    monkeypatch.setattr(ray_executor, "HANGS_AFTER_S", 0.05)
    monkeypatch.setattr(ray_executor, "LOOK_EVERY_S", 0.02)
    order = done(monkeypatch, Ray(stands=0), Pieces(), pieces=60, workers=2)
    assert sorted(order) == list(range(60)) and order.index(0) < 50


def test_only_workers_that_end_one_after_another_while_they_open_end_the_run(monkeypatch):
    """Of many in a long run two will, for reasons of their machines."""
    assert done(monkeypatch, Ray(), Pieces([False, True, False, True], {1}), pieces=3, workers=1) == [0, 1, 2]
    with pytest.raises(EnvironmentFault, match="workers end before they begin"):
        done(monkeypatch, Ray(), Pieces([True, False, False], {1}), pieces=3, workers=1)
