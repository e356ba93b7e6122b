"""A process that makes steps in one directory, and tells what came of each and what is to be seen.

Run by Side: it reads pickled messages from standard input and writes pickled answers to standard output.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from tests.mounted.differential import observing, system_calls
from tests.mounted.differential.acting import Actor, Outcome
from tests.mounted.differential.messages import Do, DoTogether, Enter, Holding, Leave, Look, Message
from tests.mounted.differential.observing import Observation
from tests.mounted.differential.steps import Step, Watch

_COARSE_CLOCK: Final = 5
"""CLOCK_REALTIME_COARSE, from which file systems take the time."""


class Worker:
    """Answers messages."""

    def __init__(self, *, native: bool) -> None:
        self._native = native
        self._actor: Actor | None = None

    def answer(self, message: Message) -> object:
        match message:
            case Enter(top):
                os.umask(0o022)
                os.chdir(top)
                self._actor = Actor(os.open(b".", os.O_RDONLY | os.O_DIRECTORY))
                return self._holding()
            case Leave():
                os.chdir("/")
                self._entered().close_all()
                self._actor = None
                return None
            case Do(step, watch):
                if watch:
                    wait_for_the_clock()
                outcome = self._entered().do(step)
                return outcome, self._look(watch), self._holding()
            case Look(watch):
                return self._look(watch)
            case DoTogether(programs):
                return do_together(programs)

    def _entered(self) -> Actor:
        assert self._actor is not None
        return self._actor

    def _holding(self) -> Holding | None:
        actor = self._entered()
        return Holding(observing.types(), actor.open_types(), sorted(actor.maps)) if self._native else None

    def _look(self, watch: Watch) -> Observation:
        if watch is Watch.NOTHING:
            return Observation()
        try:
            return self._look_at(self._entered(), everything=watch is Watch.EVERYTHING)
        except OSError as error:
            return Observation(failed=repr(error))

    def _look_at(self, actor: Actor, *, everything: bool) -> Observation:
        return Observation(
            names=observing.tree(native=self._native, everything=everything),
            descriptors=actor.descriptors(native=self._native, everything=everything),
            mappings={number: actor.mapping(number) for number in sorted(actor.maps)},
            positions=actor.positions(),
        )


def do_together(programs: Sequence[tuple[bytes, Sequence[Step]]]) -> list[list[Outcome]]:
    """What came of the steps of each thread."""
    outcomes: list[list[Outcome]] = [[] for _ in programs]
    barrier = threading.Barrier(len(programs))

    def run(index: int) -> None:
        system_calls.own_working_directory()
        top, steps = programs[index]
        actor = Actor(os.open(top, os.O_RDONLY | os.O_DIRECTORY))
        barrier.wait()
        for step in steps:
            outcomes[index].append(actor.do(step))
        actor.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(programs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def wait_for_the_clock() -> None:
    """Until a change would have a later time than all that were made before."""
    before = time.clock_gettime_ns(_COARSE_CLOCK)
    while time.clock_gettime_ns(_COARSE_CLOCK) == before:
        time.sleep(0.0005)


def main() -> None:
    worker = Worker(native=sys.argv[1] == "native")
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            message = pickle.load(source)
        except EOFError:
            return
        pickle.dump(worker.answer(message), target)
        target.flush()


if __name__ == "__main__":
    main()
