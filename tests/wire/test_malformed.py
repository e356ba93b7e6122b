"""Whatever a message holds, a decoder returns a body or raises MalformedRequestError, and never anything else."""

from __future__ import annotations

import contextlib
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.fuse import decoding
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.decoding import MalformedRequestError
from netoverlay.fuse.messages import MESSAGES, Answered
from tests.wire.kernel import HEADER_SIZE, message
from tests.wire.test_decoding import GOLDEN

DECODED = [(code, row.decode) for code, row in MESSAGES.items() if not isinstance(row, Answered)]


@given(st.sampled_from(DECODED), st.binary(max_size=300))
def test_any_bytes(row: tuple[Opcode, decoding.Decoder], body: bytes) -> None:
    opcode, decode = row
    with contextlib.suppress(MalformedRequestError):
        decode(memoryview(message(opcode, body)))


def test_malformed_is_an_errno() -> None:
    with pytest.raises(OSError, match="no header") as raised:
        decoding.decode_header(memoryview(b""))
    assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize("opcode", [code for code, (body, _) in GOLDEN.items() if body and code != Opcode.SYNCFS])
def test_truncated_at_every_byte(opcode: Opcode) -> None:
    row = MESSAGES[opcode]
    assert not isinstance(row, Answered)
    body, _ = GOLDEN[opcode]
    for length in range(len(body)):
        with pytest.raises(MalformedRequestError):
            row.decode(memoryview(message(opcode, body[:length])))


@pytest.mark.parametrize("body", [b"", b"\0", b"a", b"a\0b\0", b"\0a\0"])
def test_names_that_are_none(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        decoding.name(memoryview(message(Opcode.LOOKUP, body)))


def test_a_batch_that_promises_more_than_it_holds() -> None:
    body = b"\xff\xff\xff\xff" + bytes(20)
    with pytest.raises(MalformedRequestError):
        decoding.batch_forget(memoryview(message(Opcode.BATCH_FORGET, body)))


@given(st.binary(max_size=HEADER_SIZE + 8))
def test_headers(raw: bytes) -> None:
    says = int.from_bytes(raw[:4], "little")
    if len(raw) >= HEADER_SIZE and says == len(raw):
        assert decoding.decode_header(memoryview(raw)).length == says
    else:
        with pytest.raises(MalformedRequestError):
            decoding.decode_header(memoryview(raw))


@pytest.mark.parametrize("length", range(0, 16, 5))
def test_truncated_init(length: int) -> None:
    with pytest.raises(MalformedRequestError):
        decoding.init(memoryview(message(Opcode.INIT, bytes(length))))
