"""What may be in flight: message ids that are never used twice, and a line in which nobody is overtaken."""

from __future__ import annotations

import threading
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netoverlay_smb.credits import MORE_AT_ONCE, WANTED, CreditWindow, Ticket

NEVER = float("inf")


class Credits(RuleBasedStateMachine):
    """Against a server that counts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.window = CreditWindow(7, 5)
        self.next_id = 7
        self.granted = 5
        self.in_flight: list[int] = []
        """Charges."""
        self.line: deque[Ticket] = deque()

    @property
    def available(self) -> int:
        return self.granted - sum(self.in_flight)

    def may_take(self, charge: int) -> bool:
        return self.available - charge >= (1 if self.in_flight else 0)

    def took(self, first: int, charge: int) -> None:
        assert first == self.next_id
        self.next_id += charge
        self.in_flight.append(charge)

    def see_who_was_served(self) -> None:
        """In the order of the line, as far as it goes, and no further."""
        while self.line and self.may_take(self.line[0].charge):
            ticket = self.line.popleft()
            assert ticket.done
            self.took(ticket.message_id, ticket.charge)
        assert not any(ticket.done for ticket in self.line)

    @rule(charge=st.integers(1, 9))
    def take(self, charge: int) -> None:
        first = self.window.try_take(charge)
        assert (first is not None) == (not self.line and self.may_take(charge))
        if first is not None:
            self.took(first, charge)

    @rule()
    def take_out_of_turn(self) -> None:
        first = self.window.take_out_of_turn()
        assert (first is not None) == (self.available >= 1)
        if first is not None:
            self.took(first, 1)

    @rule(charge=st.integers(1, 9))
    def queue(self, charge: int) -> None:
        ticket = Ticket(charge, NEVER)
        self.line.append(ticket)
        self.window.queue(ticket)
        self.see_who_was_served()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.line)))
        self.line.remove(ticket)
        self.window.leave(ticket)
        assert not ticket.done
        self.see_who_was_served()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), granted=st.integers(0, 12))
    def answer(self, data: st.DataObject, granted: int) -> None:
        charge = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        # A server never takes the last one away.
        granted = max(granted, 1 if self.granted - charge < 1 else 0)
        self.granted += granted - charge
        self.window.answered(charge, granted)
        self.see_who_was_served()

    @rule(granted=st.integers(0, 3))
    def interim(self, granted: int) -> None:
        self.granted += granted
        self.window.answered(0, granted)
        self.see_who_was_served()

    @invariant()
    def the_sum_is_right(self) -> None:
        assert self.window.total == self.granted

    @invariant()
    def whoever_waits_for_nothing_is_known(self) -> None:
        assert self.window.is_starved == (bool(self.line) and not self.in_flight)

    @invariant()
    def more_is_asked_for_until_there_is_enough(self) -> None:
        for charge in (1, 16):
            asked = self.window.request(charge)
            assert charge <= asked <= charge + MORE_AT_ONCE
            assert (asked > charge) == (self.window.total < WANTED)


TestCredits = Credits.TestCase
TestCredits.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_enough_is_enough():
    window = CreditWindow(0, WANTED)
    assert window.request(3) == 3
    assert CreditWindow(0, WANTED - 10).request(3) == 13


def test_a_lone_request_may_cost_everything():
    window = CreditWindow(0, 4)
    assert window.try_take(4) == 0


def test_the_last_one_is_kept_for_what_cannot_wait():
    window = CreditWindow(0, 4)
    assert window.try_take(2) == 0
    assert window.try_take(2) is None
    assert window.try_take(1) == 2
    assert window.try_take(1) is None
    assert window.take_out_of_turn() == 3
    assert window.take_out_of_turn() is None


def test_who_leaves_makes_room_for_the_next():
    window = CreditWindow(0, 3)
    large, small = Ticket(9, NEVER), Ticket(1, NEVER)
    window.queue(large)
    window.queue(small)
    assert not small.done
    window.leave(large)
    assert small.done
    assert not large.done


def test_who_was_served_and_leaves_has_been_served():
    """Its time was up while a reply came: it is done, or its message ids would be missing for ever."""
    window = CreditWindow(0, 1)
    ticket = Ticket(3, NEVER)
    window.queue(ticket)
    window.answered(0, 5)
    window.leave(ticket)
    assert ticket.done


def test_whoever_leaves_the_line_knows_whether_it_was_served():
    """Many threads leave while one grants: each has either no message ids, or its own."""
    window = CreditWindow(0, 1)
    tickets = [Ticket(2, NEVER) for _ in range(2000)]
    for ticket in tickets:
        window.queue(ticket)
    start = threading.Barrier(3)
    served: list[int] = []
    left: list[bool] = []

    def grant() -> None:
        start.wait()
        for _ in range(1000):
            window.answered(0, 2)

    def leave(mine: list[Ticket]) -> None:
        start.wait()
        for ticket in mine:
            window.leave(ticket)
            left.append(ticket.done)
            if ticket.done:
                served.append(ticket.message_id)

    threads = [threading.Thread(target=grant), *(threading.Thread(target=leave, args=(tickets[i::2],)) for i in (0, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(served) == list(range(0, 2 * len(served), 2))
    assert len(left) == len(tickets)


def test_many_threads_never_share_a_message_id():
    window = CreditWindow(0, 40)
    taken: list[range] = []

    def take(charge: int) -> None:
        for _ in range(500):
            first = window.try_take(charge)
            if first is None:
                ticket = Ticket(charge, NEVER)
                window.queue(ticket)
                while not ticket.done:
                    pass  # another thread's answer makes it so
                first = ticket.message_id
            taken.append(range(first, first + charge))
            window.answered(charge, charge)

    threads = [threading.Thread(target=take, args=(charge,)) for charge in (1, 2, 5, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = sorted(each for some in taken for each in some)
    assert ids == list(range(len(ids)))
    assert window.total == 40
