"""The tables are whole: every opcode of the kernel has a row, every INIT flag a decision with a reason."""

from __future__ import annotations

import errno
import inspect
import typing

import pytest

from netoverlay.fuse import abi, negotiation
from netoverlay.fuse.abi import InitFlag, Opcode
from netoverlay.fuse.messages import MESSAGES, Served
from netoverlay.fuse.negotiation import DECISIONS, Ask, AskIf, AskUnless, SessionSettings
from netoverlay.fuse.operations import Operations
from netoverlay.fuse.requests import InitRequest
from tests.wire.kernel import message, unhex
from tests.wire.test_decoding import GOLDEN

OPCODES_OF_LINUX_6_18 = {*range(1, 54)} - {7, 19} | {4096, 1048576, 436207616}
FLAG_BITS_OF_LINUX_6_18 = set(range(43))


def test_every_opcode_has_a_row() -> None:
    assert {int(code) for code in Opcode} == OPCODES_OF_LINUX_6_18
    assert set(MESSAGES) == set(Opcode)


def test_every_operation_is_reached() -> None:
    hooks = {"init", "destroy", "unanswered", "forget"}
    methods = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction)}
    assert {row.method for row in MESSAGES.values() if isinstance(row, Served)} == methods - hooks


@pytest.mark.parametrize("opcode", [code for code, row in MESSAGES.items() if isinstance(row, Served)])
def test_operations_are_given_what_they_declare(opcode: Opcode) -> None:
    row = MESSAGES[opcode]
    assert isinstance(row, Served)
    body = row.decode(memoryview(message(opcode, GOLDEN[opcode][0])))
    assert typing.get_type_hints(getattr(Operations, row.method))["body"] is type(body)


def test_every_flag_is_decided() -> None:
    assert {flag.bit_length() - 1 for flag in InitFlag} == FLAG_BITS_OF_LINUX_6_18
    assert set(DECISIONS) == set(InitFlag)
    assert all(decision.reason for decision in DECISIONS.values())


def test_conditions_are_settings() -> None:
    for decision in DECISIONS.values():
        if isinstance(decision, AskIf | AskUnless):
            assert getattr(SessionSettings(), decision.setting) is False


def test_only_what_is_offered_is_agreed_on() -> None:
    settings = SessionSettings(auto_inval_data=True, cache_symlinks=True)
    asked = {
        flag
        for flag, decision in DECISIONS.items()
        if isinstance(decision, Ask | AskUnless)
        or (isinstance(decision, AskIf) and decision.setting in {"auto_inval_data", "cache_symlinks"})
    }
    everything = InitFlag((1 << 64) - 1)
    agreed = negotiation.negotiate(InitRequest(7, 45, 1 << 20, everything), settings)
    assert {flag for flag in InitFlag if flag in agreed.flags} == asked
    nothing = negotiation.negotiate(InitRequest(7, 45, 1 << 20, InitFlag(0)), settings)
    assert not nothing.flags


@pytest.mark.parametrize(("kernel", "agreed"), [(31, 31), (45, 45), (60, 45)])
def test_the_smaller_minor_version_is_agreed_on(kernel: int, agreed: int) -> None:
    request = InitRequest(7, kernel, 4096, InitFlag(0))
    assert negotiation.negotiate(request, SessionSettings()).minor == agreed


def test_a_kernel_that_is_too_old() -> None:
    with pytest.raises(OSError, match=r"Linux 5\.4") as raised:
        negotiation.negotiate(InitRequest(7, 30, 4096, InitFlag(0)), SessionSettings())
    assert raised.value.errno == errno.EPROTONOSUPPORT


def test_reply_to_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 4096)
    settings = SessionSettings()
    offered = InitFlag.ASYNC_READ | InitFlag.MAX_PAGES | InitFlag.INIT_EXT | InitFlag.HAS_EXPIRE_ONLY
    agreed = negotiation.negotiate(InitRequest(7, 45, 131072, offered), settings)
    assert negotiation.init_reply(agreed, settings) == unhex("""
        07000000          # major
        2d000000          # minor 45
        00000200          # max_readahead
        01004040          # flags ASYNC_READ | MAX_PAGES | INIT_EXT
        4000              # max_background 64
        3000              # congestion_threshold 48
        00001000          # max_write 1 MiB
        01000000          # time_gran 1 ns
        0001              # max_pages 256
        0000              # map_alignment
        08000000          # flags2 HAS_EXPIRE_ONLY
        00000000          # max_stack_depth
        0000              # request_timeout
        00000000000000000000000000000000000000000000  # unused[11]
    """)


def test_sizes_are_those_of_the_kernel() -> None:
    """In the order of fuse.h; the kernel compares the length of most replies exactly."""
    sizes = {
        abi.IN_HEADER: 40,
        abi.OUT_HEADER: 16,
        abi.ENTRY_OUT: 128,
        abi.ATTR_OUT: 104,
        abi.OPEN_OUT: 16,
        abi.DIRENT: 24,
        abi.DIRENTPLUS: 152,
        abi.STATFS_OUT: 80,
        abi.INIT_IN_EXT: 64,
        abi.INIT_OUT: 64,
        abi.SETATTR_IN: 88,
        abi.MKNOD_IN: 16,
        abi.READ_IN: 40,
        abi.WRITE_IN: 40,
        abi.RELEASE_IN: 24,
        abi.FLUSH_IN: 24,
        abi.FALLOCATE_IN: 32,
        abi.COPY_FILE_RANGE_IN: 56,
        abi.NOTIFY_INVAL_INODE_OUT: 24,
        abi.NOTIFY_INVAL_ENTRY_OUT: 16,
        abi.NOTIFY_DELETE_OUT: 24,
        abi.NOTIFY_STORE_OUT: 24,
        abi.NOTIFY_PRUNE_OUT: 16,
    }
    assert [layout.size for layout in sizes] == list(sizes.values())
