"""The keys of a lower layer that say whose its files are."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.config.errors import ConfigError
from netoverlay.config.load import load_profile
from netoverlay.config.model import LowerTable
from netoverlay.config.owners import owner_map
from netoverlay.wrappers.id_map import MAX_ID, IdMap, IdRange, OwnerMap, Squash

WriteProfile = Callable[..., Path]

LOWER = '[[lower]]\nurl = "/usr/share"\n'


def owners_of(write_profile: WriteProfile, keys: str) -> OwnerMap | None:
    write_profile(LOWER + keys)
    return load_profile("dev").lowers[0].owners


@pytest.mark.parametrize("keys", ["", 'squash = "none"\n', "idmap = []\n"])
def test_nothing_said(keys: str, write_profile: WriteProfile) -> None:
    assert owners_of(write_profile, keys) is None


def test_an_owner_for_all(write_profile: WriteProfile) -> None:
    expected = OwnerMap(IdMap(1000, Squash.ALL), IdMap(0, Squash.ALL))
    assert owners_of(write_profile, "uid = 1000\ngid = 0\n") == expected
    assert owners_of(write_profile, f"gid = {MAX_ID}\n") == OwnerMap(IdMap(), IdMap(MAX_ID, Squash.ALL))


def test_an_owner_for_what_has_none(write_profile: WriteProfile) -> None:
    keys = 'uid = 1000\ngid = 0\nsquash = "none"\n'
    assert owners_of(write_profile, keys) == OwnerMap(IdMap(1000), IdMap(0))


def test_names(write_profile: WriteProfile) -> None:
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    owners = owners_of(write_profile, f'uid = "{user.pw_name}"\ngid = "{group.gr_name}"\n')
    assert owners == OwnerMap(IdMap(user.pw_uid, Squash.ALL), IdMap(group.gr_gid, Squash.ALL))


@pytest.mark.parametrize("squash", [Squash.ROOT, Squash.ALL])
def test_squash(squash: Squash, write_profile: WriteProfile) -> None:
    word = f'squash = "{squash.value}"\n'
    me = OwnerMap(IdMap(os.geteuid(), squash), IdMap(os.getegid(), squash))
    assert owners_of(write_profile, word) == me
    nobody = OwnerMap(IdMap(65534, squash), IdMap(65533, squash))
    assert owners_of(write_profile, word + "uid = 65534\ngid = 65533\n") == nobody


def test_idmap(write_profile: WriteProfile) -> None:
    owners = owners_of(write_profile, 'idmap = ["u:0:100000:1000", "g:5:6:1", "b:2000:3000:7"]\n')
    both = IdRange(2000, 3000, 7)
    expected = OwnerMap(
        IdMap(ranges=(IdRange(0, 100000, 1000), both)),
        IdMap(ranges=(IdRange(5, 6, 1), both)),
    )
    assert owners == expected


def test_idmap_beside_an_owner_for_what_has_none(write_profile: WriteProfile) -> None:
    owners = owners_of(write_profile, 'uid = 7\nidmap = ["u:0:1:1"]\n')
    assert owners == OwnerMap(IdMap(7, ranges=(IdRange(0, 1, 1),)), IdMap())


FORM = 'is not TYPE:FROM:TO:COUNT; write it as "u:0:100000:65536", with u, g or b (both) for TYPE'
REFUSED = {
    "negative": ("uid = -1\n", "lower[0].uid: write a whole number >= 0"),
    "the id that means none": ("gid = 4294967295\n", "lower[0].gid: write a whole number <= 4294967294"),
    "true": (
        "uid = true\n",
        "lower[0].uid: write a whole number or a string in quotes, not true or false",
    ),
    "unknown user": (
        'uid = "no such user"\n',
        "lower[0].uid: 'no such user' is no user of this machine; write the name of one, or a number without quotes",
    ),
    "unknown group": (
        'gid = "1000"\n',
        "lower[0].gid: '1000' is no group of this machine; write the name of one, or a number without quotes",
    ),
    "no name": (
        'uid = "a\\u0000b"\n',
        "lower[0].uid: 'a\\x00b' is no user of this machine; write the name of one, or a number without quotes",
    ),
    "squash": ('squash = "some"\n', "lower[0].squash: write one of: 'none', 'root', 'all'"),
    "idmap and squash": (
        'idmap = ["u:0:1:1"]\nsquash = "root"\n',
        'lower[0].squash: "root" beside an idmap: each says whose owners are shown; remove one of them',
    ),
    "idmap is no list": (
        'idmap = "u:0:1:1"\n',
        "lower[0].idmap: write an array ([...], or [[...]] of tables), not a string in quotes",
    ),
    "three numbers are needed": (
        'idmap = ["u:0:1:1", "u:5"]\n',
        f"lower[0].idmap[1]: 'u:5' {FORM}",
    ),
    "no type": (
        'idmap = ["0:1:1"]\n',
        f"lower[0].idmap[0]: '0:1:1' {FORM}",
    ),
    "none": ('idmap = ["u:0:1:0"]\n', "lower[0].idmap[0]: 'u:0:1:0' maps nothing: write a COUNT > 0"),
    "too many": (
        'idmap = ["u:0:1:4294967295"]\n',
        "lower[0].idmap[0]: 'u:0:1:4294967295' passes the largest id, 4294967294; write a smaller COUNT",
    ),
    "overlap of what is mapped": (
        'idmap = ["u:0:1000:10", "g:0:1:1", "b:9:2000:1"]\n',
        "lower[0].idmap[2]: 'b:9:2000:1' maps ids that 'u:0:1000:10' maps too; write ranges that do not overlap",
    ),
    "overlap of what is shown": (
        'idmap = ["b:0:1000:10", "g:100:999:2"]\n',
        "lower[0].idmap[1]: 'g:100:999:2' shows ids that 'b:0:1000:10' shows too; write ranges that do not overlap",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_line(case: str, write_profile: WriteProfile) -> None:
    keys, expected = REFUSED[case]
    file = write_profile(LOWER + keys)
    with pytest.raises(ConfigError) as caught:
        load_profile("dev")
    assert str(caught.value) == f"{file}: {expected}"


mappings = st.builds(
    "{}:{}:{}:{}".format, st.sampled_from("ugb"), *(st.integers(0, 40) | st.integers(0, 1 << 33) for _ in range(3))
)


@given(st.lists(mappings | st.text(max_size=12), max_size=6))
def test_an_idmap_is_refused_or_one_to_one(entries: list[str]) -> None:
    try:
        owners = owner_map(LowerTable(idmap=tuple(entries)), Path("file"), "lower[0]")
    except ConfigError:
        return
    for ids in (owners.users, owners.groups) if owners else ():
        for mapped in ids.ranges:
            for number in {mapped.first, mapped.first + mapped.count - 1}:
                assert 0 <= ids.shown(number) <= MAX_ID
                assert ids.origin(ids.shown(number)) == number
