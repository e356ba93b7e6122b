"""A process was killed, and the server carries out what it had sent only after the next mount has taken over."""

from __future__ import annotations

from netoverlay.backend_api import AttributeChange
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from tests.wrappers.sidecars import JOURNAL, LIKE_SFTP, Server, die, make, shown


class Late:
    """What the server has received, and not carried out."""

    def __init__(self):
        self.calls = []
        self.is_stalled = False

    def carry_out(self):
        for call in self.calls:
            call()


class LateFile(DelegatingFile):
    def __init__(self, inner, late):
        super().__init__(inner)
        self._late = late

    def write_at(self, offset, data):
        kept = bytes(data)
        if self._late.is_stalled:
            self._late.calls.append(lambda: self.inner.write_at(offset, kept))
        else:
            self.inner.write_at(offset, kept)


class LateBackend(DelegatingBackend):
    """A connection to a server that comes to a halt."""

    def __init__(self, inner, late):
        super().__init__(inner)
        self._late = late

    def open(self, path, access, **options):
        return LateFile(self.inner.open(path, access, **options), self._late)


def prepared():
    server = Server(LIKE_SFTP)
    with server.mounted() as backend:
        backend.mkdir("up/directory", 0o750)
        for number in range(5):
            make(backend, f"up/directory/{number}", b"content")
            backend.set_attributes(f"up/directory/{number}", AttributeChange(uid=number + 1))
    late = Late()
    dying = server.backend(lambda inner: LateBackend(inner, late))
    dying.connect()
    return server, dying, late


def work(backend):
    for number in range(5):
        backend.set_attributes(f"up/directory/{number}", AttributeChange(uid=number + 1000))
        backend.rename(f"up/directory/{number}", f"up/directory/new{number}")
    backend.sync()


def test_a_late_line_of_the_dead_takes_nothing_from_the_living():
    server, dying, late = prepared()
    dying.set_attributes("up/directory/3", AttributeChange(uid=77, gid=88))
    dying.set_attributes("up/directory", AttributeChange(mode=0o711))
    late.is_stalled = True
    dying._journal.flush()
    die(dying)
    with server.mounted() as second:
        work(second)
        late.carry_out()
        work_seen = shown(second)
        second.set_attributes("up/directory/new4", AttributeChange(uid=4321))
        second.sync()
    with server.mounted() as third:
        again = shown(third)
    assert again.pop("up/directory/new4").owner[0] == 4321
    work_seen.pop("up/directory/new4")
    assert again == work_seen


def test_a_journal_that_was_closed_in_order_is_not_written_anew():
    server, dying, _ = prepared()
    dying.close()
    before = server.journal()
    with server.mounted():
        pass
    assert server.journal().startswith(before)
    with server.plain() as plain:
        assert plain.stat(JOURNAL).size < 2 * len(before)
