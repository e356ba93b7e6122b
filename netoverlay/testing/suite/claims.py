"""Each claim both ways: what is claimed does not raise NotSupportedError, what is not claimed raises it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from netoverlay.backend_api import (
    AllocateMode,
    AttributeChange,
    BackendFile,
    Capabilities,
    FileType,
    LockKind,
    RenameFlags,
)
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, supported

ATTRIBUTE = "user.netoverlay.claim"
PRIVILEGED_ATTRIBUTE = "trusted.netoverlay.claim"
NULL_DEVICE = os.makedev(1, 3)
WHITEOUT_DEVICE = os.makedev(0, 0)

LayerCall = Callable[[Layer], object]
FileCall = Callable[[Layer, BackendFile], object]


def _mknod(type: FileType, rdev: int = 0) -> LayerCall:
    return lambda layer: layer.backend.mknod(layer.path("node"), type, 0o600, rdev)


def _rename(flags: RenameFlags) -> LayerCall:
    return lambda layer: layer.backend.rename(layer.path("file"), layer.path("other"), flags)


def _on_file(change: AttributeChange) -> LayerCall:
    return lambda layer: layer.backend.set_attributes(layer.path("file"), change)


def _own_user(layer: Layer) -> None:
    told = layer.backend.stat(layer.path("file"))
    change = AttributeChange(uid=os.geteuid() if told.uid is None else told.uid)
    layer.backend.set_attributes(layer.path("file"), change)


def _noreplace(layer: Layer) -> None:
    layer.backend.rename(layer.path("file"), layer.path("free"), RenameFlags.NOREPLACE)


# (claim, operation, call). "file" and "other" are files, and each call is made in a fresh directory.
LAYER_CALLS: tuple[tuple[str, str, LayerCall], ...] = (
    ("modes", "set_attributes(mode)", _on_file(AttributeChange(mode=0o640))),
    ("owners", "set_attributes(uid)", _own_user),
    ("symlinks", "symlink", lambda layer: layer.backend.symlink(layer.path("link"), "target")),
    ("hard_links", "link", lambda layer: layer.backend.link(layer.path("file"), layer.path("linked"))),
    ("special_files", "mknod(FIFO)", _mknod(FileType.FIFO)),
    ("special_files", "mknod(SOCKET)", _mknod(FileType.SOCKET)),
    ("devices", "mknod(CHARACTER_DEVICE)", _mknod(FileType.CHARACTER_DEVICE, NULL_DEVICE)),
    ("devices", "mknod(BLOCK_DEVICE)", _mknod(FileType.BLOCK_DEVICE, NULL_DEVICE)),
    ("whiteout_devices", "mknod(0:0)", _mknod(FileType.CHARACTER_DEVICE, WHITEOUT_DEVICE)),
    ("xattrs", "set_xattr", lambda layer: layer.backend.set_xattr(layer.path("file"), ATTRIBUTE, b"value")),
    ("xattrs", "list_xattrs", lambda layer: layer.backend.list_xattrs(layer.path("file"))),
    (
        "privileged_xattrs",
        "set_xattr(trusted.)",
        lambda layer: layer.backend.set_xattr(layer.path("file"), PRIVILEGED_ATTRIBUTE, b"value"),
    ),
    ("rename_noreplace", "rename(NOREPLACE)", _noreplace),
    ("rename_exchange", "rename(EXCHANGE)", _rename(RenameFlags.EXCHANGE)),
    ("rename_whiteout", "rename(WHITEOUT)", _rename(RenameFlags.WHITEOUT)),
)

FILE_CALLS: tuple[tuple[str, str, FileCall], ...] = (
    ("modes", "set_attributes(mode)", lambda _, file: file.set_attributes(AttributeChange(mode=0o640))),
    ("xattrs", "set_xattr", lambda _, file: file.set_xattr(ATTRIBUTE, b"value")),
    ("xattrs", "list_xattrs", lambda _, file: file.list_xattrs()),
    ("privileged_xattrs", "set_xattr(trusted.)", lambda _, file: file.set_xattr(PRIVILEGED_ATTRIBUTE, b"value")),
    ("holes", "seek_data", lambda _, file: file.seek_data(0)),
    ("holes", "seek_hole", lambda _, file: file.seek_hole(0)),
    ("holes", "allocate(PUNCH_HOLE)", lambda _, file: file.allocate(AllocateMode.PUNCH_HOLE, 0, 10)),
    ("allocate", "allocate(RESERVE)", lambda _, file: file.allocate(AllocateMode.RESERVE, 0, 10)),
    ("allocate", "allocate(KEEP_SIZE)", lambda _, file: file.allocate(AllocateMode.RESERVE_KEEP_SIZE, 0, 10)),
    ("allocate", "allocate(ZERO_RANGE)", lambda _, file: file.allocate(AllocateMode.ZERO_RANGE, 0, 10)),
    (
        "allocate",
        "allocate(ZERO_RANGE_KEEP_SIZE)",
        lambda _, file: file.allocate(AllocateMode.ZERO_RANGE_KEEP_SIZE, 0, 10),
    ),
    ("locks", "lock(EXCLUSIVE)", lambda _, file: file.lock(LockKind.EXCLUSIVE, 0, 10)),
    ("locks", "lock(UNLOCK)", lambda _, file: file.lock(LockKind.UNLOCK, 0, 10)),
    ("whole_locks", "lock_whole(SHARED)", lambda _, file: file.lock_whole(LockKind.SHARED)),
    ("whole_locks", "lock_whole(UNLOCK)", lambda _, file: file.lock_whole(LockKind.UNLOCK)),
)


class ClaimSuite(SuiteBase):
    """Where a test here fails, either the Capabilities or the operation is wrong."""

    @pytest.mark.parametrize(
        ("claim", "call"),
        [(claim, call) for claim, _, call in LAYER_CALLS],
        ids=[f"{claim}-{operation}" for claim, operation, _ in LAYER_CALLS],
    )
    def test_claim_of_backend(self, layer: Layer, claim: str, call: LayerCall) -> None:
        layer.file("file", data=b"content")
        layer.file("other", data=b"content")
        with supported(getattr(layer.claims, claim), claim):
            call(layer)

    @pytest.mark.parametrize(
        ("claim", "call"),
        [(claim, call) for claim, _, call in FILE_CALLS],
        ids=[f"{claim}-{operation}" for claim, operation, _ in FILE_CALLS],
    )
    def test_claim_of_file(self, layer: Layer, claim: str, call: FileCall) -> None:
        with layer.create(layer.path("file")) as file:
            file.write_at(0, b"content")
            with supported(getattr(layer.claims, claim), claim):
                call(layer, file)

    def test_claim_of_copy(self, layer: Layer) -> None:
        with layer.create(layer.path("file")) as source, layer.create(layer.path("copy")) as target:
            source.write_at(0, b"content")
            with supported(layer.claims.server_copy, "server_copy"):
                assert target.copy_range(source, 0, 0, 7) == 7

    def test_claims_of_stat(self, layer: Layer) -> None:
        told = layer.backend.stat(layer.file("file"))
        for claim, value in (
            ("modes", told.mode),
            ("owners", told.uid),
            ("owners", told.gid),
            ("file_ids", told.file_id),
            ("link_counts", told.nlink),
        ):
            if getattr(layer.claims, claim):
                assert value is not None, f"Capabilities.{claim} is claimed: tell it in FileStat"
        if not layer.claims.file_ids:
            assert told.file_id is None, "file_ids is not claimed: leave FileStat.file_id None, never a guess"

    def test_claims_are_consistent(self, layer: Layer) -> None:
        claims = layer.claims
        assert not claims.privileged_xattrs or claims.xattrs, "privileged_xattrs is claimed without xattrs"
        assert claims.time_granularity_ns >= 1
        assert claims.max_name_bytes >= 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(claims, dataclasses.fields(Capabilities)[0].name, True)
