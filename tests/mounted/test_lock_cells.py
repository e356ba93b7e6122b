"""Every cell of the table in docs/locks.md, on real servers: who is excluded by a lock, and who excludes.

The outsiders are programs on the file that a layer has: on this machine's disk, for a server its disk; and for SMB
another connection as well.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from netoverlay.backend_api import Backend
from netoverlay.backend_api.registry import load_plugin
from netoverlay.backend_api.url import parse_url
from tests.mounted import lock_cells
from tests.mounted.lock_cells import Answer, Call, Cell, Transport, Upper, Where
from tests.mounted.lockers import Program, SmbProgram, Waiter
from tests.mounted.mounting import OverlayMount, layer_table, sftp_login, smb_login
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

SHORTLY = 0.02
CONTENT = "content"


def test_the_document_says_what_is_proved_here() -> None:
    text = lock_cells.DOCUMENT.read_text("utf-8")
    assert lock_cells.written_anew(text) == text, "write it anew: python -m tests.mounted.lock_cells"


@dataclass
class Outsider:
    """A program that is not on the mount, with the calls that exclude the cell's."""

    program: Program | SmbProgram
    flocks: bool

    def __str__(self) -> str:
        return f"an outsider ({type(self.program).__name__})"

    @property
    def exclusive(self) -> Call:
        return Call.FLOCK_EXCLUSIVE if self.flocks else Call.OFD_EXCLUSIVE

    @property
    def shared(self) -> Call:
        return Call.FLOCK_SHARED if self.flocks else Call.OFD_SHARED

    def take(self, call: Call) -> int:
        return self.program.take(call)

    def give_up(self, call: Call) -> None:
        self.program.give_up(call)


@dataclass
class Bench:
    """One mount over all kinds of lowers, and all who use what is in its layers."""

    mount: OverlayMount
    bases: dict[tuple[Where, Transport], Path]
    smb: Backend
    smb_root: Path
    upper: Upper | None
    closing: ExitStack = field(default_factory=ExitStack)

    def layer_path(self, cell: Cell, *, copied: bool = False) -> Path:
        """The file that a layer has: the upper, or the lower of the cell."""
        if cell.where is Where.UPPER or copied:
            return self.mount.upper / cell.name
        return self.bases[cell.where, cell.transport] / cell.name

    def here(self, cell: Cell) -> Program:
        """A program on the mount. Closed with the cell."""
        return self.closing.enter_context(closing(Program(self.mount.path / cell.name, writes=self.upper is not None)))

    def outsiders(self, cell: Cell, *, copied: bool = False) -> list[Outsider]:
        """Programs outside the mount. Closed with the cell."""
        path = self.layer_path(cell, copied=copied)
        transport = self.upper.transport if copied and self.upper is not None else cell.transport
        # By SMB a flock(2) is a lock of all bytes, which a program on the server sees with fcntl(2).
        flocks = cell.call.is_flock and transport is Transport.LOCAL
        programs: list[Program | SmbProgram] = [Program(path)]
        if transport is Transport.SMB:
            programs.append(SmbProgram(self.smb, str(path.relative_to(self.smb_root))))
        return [Outsider(self.closing.enter_context(closing(program)), flocks) for program in programs]


@pytest.fixture(scope="module")
def smb_client(smbd: SmbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A connection that is not a mount's."""
    plugin = load_plugin("smb")
    url = parse_url(smbd.url_of(tmp_path_factory.getbasetemp()))
    backend: Backend = plugin.create(url, plugin.options(password_file=smbd.password_file), 30.0)
    backend.connect()
    with closing(backend):
        yield backend


@pytest.fixture
def bench(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    smb_client: Backend,
    sshd: SshServer,
    smbd: SmbServer,
) -> Iterator[Bench]:
    upper: Upper | None = request.param
    urls: dict[Transport, Callable[[Path], tuple[str, list[str]]]] = {
        Transport.LOCAL: lambda path: (str(path), []),
        Transport.SMB: lambda path: (smbd.url_of(path), smb_login(smbd)),
        Transport.SFTP: lambda path: (sshd.url(path), sftp_login(sshd)),
    }
    bases: dict[tuple[Where, Transport], Path] = {}
    lowers = []
    for where, transport in itertools.product((Where.IMMUTABLE, Where.CHANGING), Transport):
        base = bases[where, transport] = tmp_path / "bases" / f"{where.name}-{transport.name}"
        base.mkdir(parents=True)
        url, keys = urls[transport](base)
        lowers.append(layer_table(url, keys, immutable=where is Where.IMMUTABLE))
    top = tmp_path / "served" / "upper"
    upper_keys = ["read_only"]
    if upper is not None:
        url, login = urls[upper.transport](top)
        upper_keys = [f'url = "{url}"', *login, f"private = {str(upper.private).lower()}"]
    mount = OverlayMount(tmp_path / "m", "".join(lowers), upper=top, upper_keys=upper_keys)
    if upper is None:
        mount.profile.write_text("read_only = true\n" + mount.profile.read_text().replace("[upper]\nread_only\n", ""))
    made = Bench(mount, bases, smb_client, tmp_path_factory.getbasetemp(), upper)
    for cell in lock_cells.cells(upper):
        made.layer_path(cell).write_text(CONTENT)
    with mount:
        yield made


@pytest.mark.parametrize("bench", lock_cells.TABLES, indirect=True, ids=str)
def test_every_lock_is_kept_where_the_table_says(bench: Bench) -> None:
    wrong = []
    for cell in lock_cells.cells(bench.upper):
        with bench.closing:
            try:
                PROOFS[cell.answer](bench, cell)
            except AssertionError as error:
                wrong.append(
                    f"{cell.where.value}, {cell.transport.value}: {cell.call.value}: {str(error).splitlines()[0]}"
                )
    assert not wrong, "\n".join(wrong)


def _exclusive(call: Call) -> Call:
    """An exclusive one that `call` is in the way of."""
    return Call.FLOCK_EXCLUSIVE if call.is_flock else Call.OFD_EXCLUSIVE


def _refused(answer: int) -> bool:
    return answer in (errno.EAGAIN, errno.EACCES)


def _kept_by_the_mount(bench: Bench, cell: Cell, *, copied: bool = False) -> None:
    """Programs on the mount exclude each other; outsiders neither exclude nor are excluded."""
    here, neighbour = bench.here(cell), bench.here(cell)
    for outsider in bench.outsiders(cell, copied=copied):
        assert outsider.take(outsider.exclusive) == 0, "an outsider was refused before anything was locked"
        assert here.take(cell.call) == 0, "refused, because of an outsider"
        outsider.give_up(outsider.exclusive)
        assert outsider.take(outsider.exclusive) == 0, "an outsider was refused, because of the mount"
        outsider.give_up(outsider.exclusive)
        here.give_up(cell.call)
    if bench.upper is None and not cell.call.is_flock:
        return  # where no file can be open for writing, no neighbour can be in the way
    others = _exclusive(cell.call)
    assert here.take(cell.call) == 0
    assert _refused(neighbour.take(others)), "a neighbour was not refused"
    _waits_for(neighbour, others, lambda: here.give_up(cell.call))


def _held_in_the_layer(bench: Bench, cell: Cell, *, copied: bool = False) -> None:
    """Outsiders exclude, and are excluded."""
    here = bench.here(cell)
    for outsider in bench.outsiders(cell, copied=copied):
        assert outsider.take(outsider.exclusive) == 0, "an outsider was refused before anything was locked"
        assert _refused(here.take(cell.call)), f"{outsider} was not in the way"
        _waits_for(here, cell.call, functools.partial(outsider.give_up, outsider.exclusive))
        assert _refused(outsider.take(outsider.exclusive)), f"{outsider} was not refused"
        excludes_all = cell.answer is not Answer.LOWER_CLIENTS or isinstance(outsider.program, SmbProgram)
        if cell.call.is_exclusive and excludes_all:
            assert _refused(outsider.take(outsider.shared)), f"{outsider} could share it"
        else:
            assert outsider.take(outsider.shared) == 0, f"{outsider} could not share it"
            outsider.give_up(outsider.shared)
        here.give_up(cell.call)
        assert outsider.take(outsider.exclusive) == 0, "what was given up is held still"
        outsider.give_up(outsider.exclusive)
        if cell.call.is_exclusive and excludes_all:
            assert outsider.take(outsider.shared) == 0
            assert _refused(here.take(cell.call)), f"{outsider} was not in the way, sharing it"
            outsider.give_up(outsider.shared)


def _waits_for(program: Program, call: Call, give_up: Callable[[], None]) -> None:
    waiter = Waiter(program, call)
    waited = waiter.is_waiting(SHORTLY)
    give_up()
    assert waiter.answered() == 0, "who waited was not granted it"
    assert waited, "nobody waited"


def _copied_up(bench: Bench, cell: Cell) -> None:
    """The outsider's lock on the lower's file is in nobody's way; the upper has a file of its own by then."""
    holder = bench.outsiders(cell)[0]
    # What is locked exclusively on a server of SMB cannot be read there.
    assert holder.take(holder.shared if cell.transport is Transport.SMB else holder.exclusive) == 0
    here = bench.here(cell)
    assert not bench.layer_path(cell, copied=True).exists(), "copied up before it was locked"
    assert here.take(cell.call) == 0, "refused, because of who uses the lower's file"
    here.give_up(cell.call)
    assert bench.layer_path(cell, copied=True).read_text() == CONTENT
    proof = _kept_by_the_mount if cell.answer is Answer.COPIED else _held_in_the_layer
    proof(bench, cell, copied=True)


def _no_locks(bench: Bench, cell: Cell) -> None:
    here = bench.here(cell)
    if cell.call is Call.FIND:
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            with pytest.raises(OSError, match="No locks available"):
                here.found(kind)
        return
    assert here.take(cell.call) == errno.ENOLCK
    assert here.take(cell.call, waits=True) == errno.ENOLCK
    here.give_up(cell.call)
    if cell.where is not Where.UPPER:
        assert not bench.layer_path(cell, copied=True).exists(), "it was copied up for nothing"


def _not_for_writing(bench: Bench, cell: Cell) -> None:
    assert bench.here(cell).take(cell.call) == errno.EBADF


def _found_by_the_mount(bench: Bench, cell: Cell) -> None:
    here, neighbour = bench.here(cell), bench.here(cell)
    for outsider in bench.outsiders(cell):
        assert outsider.take(outsider.exclusive) == 0
        assert here.found(fcntl.F_RDLCK) == here.found(fcntl.F_WRLCK) == fcntl.F_UNLCK, "an outsider was found"
        outsider.give_up(outsider.exclusive)
    assert neighbour.take(Call.OFD_SHARED) == 0
    assert here.found(fcntl.F_RDLCK) == fcntl.F_UNLCK, "a shared lock was told to be in the way of another"
    assert here.found(fcntl.F_WRLCK) == fcntl.F_RDLCK, "a neighbour was not found"


def _found_in_the_layer(bench: Bench, cell: Cell) -> None:
    here, neighbour = bench.here(cell), bench.here(cell)
    for outsider in bench.outsiders(cell):
        assert here.found(fcntl.F_RDLCK) == here.found(fcntl.F_WRLCK) == fcntl.F_UNLCK, "found what nobody holds"
        assert outsider.take(outsider.exclusive) == 0
        assert here.found(fcntl.F_RDLCK) == fcntl.F_WRLCK, f"{outsider} was not found"
        outsider.give_up(outsider.exclusive)
        assert outsider.take(outsider.exclusive) == 0, "what was looked for is held still"
        outsider.give_up(outsider.exclusive)
    assert neighbour.take(Call.OFD_SHARED) == 0
    assert here.found(fcntl.F_WRLCK) == fcntl.F_RDLCK, "a neighbour was not found"


Proof = Callable[[Bench, Cell], None]


def _for_finding(found: Proof, otherwise: Proof) -> Proof:
    return lambda bench, cell: (found if cell.call is Call.FIND else otherwise)(bench, cell)


PROOFS: dict[Answer, Proof] = {
    Answer.MOUNT: _for_finding(_found_by_the_mount, _kept_by_the_mount),
    Answer.LOWER: _for_finding(_found_in_the_layer, _held_in_the_layer),
    Answer.LOWER_CLIENTS: _held_in_the_layer,
    Answer.UPPER: _for_finding(_found_in_the_layer, _held_in_the_layer),
    Answer.COPIED: _copied_up,
    Answer.COPIED_UPPER: _copied_up,
    Answer.ENOLCK: _no_locks,
    Answer.EBADF: _not_for_writing,
}
