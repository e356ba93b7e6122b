"""What a profile may say, and that what it may not say is refused with one line that helps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.backend_api.url import LayerUrl
from netoverlay.config.errors import ConfigError
from netoverlay.config.load import load_profile

WriteProfile = Callable[..., Path]

ISSUE_PROFILE = """
mountpoint = "~/work/dev"                      # or as the second argument

[[lower]]                                      # the first listed is top-most
url = "sftp://build@base.example:2222/srv/base"
immutable = true
identity_file = "~/.ssh/id_ed25519"
known_hosts = "~/.ssh/known_hosts"

[[lower]]
url = "/usr/share/base"

[upper]
url = "/var/lib/dev/upper"

[cache]
directory = "~/.cache/netoverlay"
"""


def test_profile_with_every_table(write_profile: WriteProfile, home: Path) -> None:
    file = write_profile(ISSUE_PROFILE)
    profile = load_profile("dev")
    assert (profile.name, profile.file, profile.read_only) == ("dev", file, False)
    assert profile.mountpoint == home / "work/dev"
    top, bottom = profile.lowers
    assert top.url == LayerUrl("sftp", "/srv/base", "build", "base.example", 2222)
    assert (top.key, top.immutable, top.ttl, top.deadline) == ("lower[0]", True, 1.0, 30.0)
    assert top.options.identity_file == home / ".ssh/id_ed25519"
    assert top.options.known_hosts == home / ".ssh/known_hosts"
    assert (bottom.key, str(bottom.url), bottom.immutable) == ("lower[1]", "/usr/share/base", False)
    assert profile.upper is not None
    assert (str(profile.upper.url), profile.upper.private) == ("/var/lib/dev/upper", False)
    assert str(profile.upper.work) == os.path.realpath("/var/lib/dev") + "/upper.work"
    assert profile.cache.directory == home / ".cache/netoverlay"
    assert profile.mount.allow_other is False


def test_smallest_profile_has_a_private_upper(write_profile: WriteProfile, home: Path) -> None:
    write_profile('[[lower]]\nurl = "/usr/share"\n')
    profile = load_profile("dev")
    assert profile.mountpoint is None
    assert profile.upper is not None
    assert str(profile.upper.url) == str(home / ".local/share/netoverlay/dev/upper")
    assert profile.upper.private
    assert profile.upper.is_default
    assert profile.locks.mode == "delegate"
    assert profile.upper.work == home / ".local/share/netoverlay/dev/upper.work"
    assert profile.cache.directory == home / ".cache/netoverlay"


def test_upper_can_be_declared_private(write_profile: WriteProfile, tmp_path: Path) -> None:
    upper = f'[upper]\nurl = "{tmp_path}"\nprivate = true\n'
    write_profile(f'[[lower]]\nurl = "/usr/share"\n{upper}[locks]\nmode = "local"\n')
    profile = load_profile("dev")
    assert profile.upper is not None
    assert (profile.upper.private, profile.upper.is_default) == (True, False)
    assert profile.locks.mode == "local"


def test_upper_without_url_is_private_too(write_profile: WriteProfile) -> None:
    write_profile('[[lower]]\nurl = "/usr/share"\n[upper]\ndeadline = 5\n')
    profile = load_profile("dev")
    assert profile.upper is not None
    assert (profile.upper.private, profile.upper.deadline) == (True, 5.0)


def test_read_only_has_no_upper(write_profile: WriteProfile) -> None:
    write_profile('read_only = true\n[[lower]]\nurl = "/usr/share"\n')
    assert load_profile("dev").upper is None


def test_xdg_directories(write_profile: WriteProfile, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile('[[lower]]\nurl = "/usr/share"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    profile = load_profile("dev")
    assert profile.upper is not None
    assert profile.upper.url.path == str(home / "data/netoverlay/dev/upper")
    assert profile.cache.directory == home / "cache/netoverlay"


KEYS_OF_ALL_LOWERS = "deadline, gid, idmap, immutable, on_down, squash, ttl, uid, url"
LOWER = '[[lower]]\nurl = "/usr/share"\n'


def test_what_happens_while_a_layer_is_away(write_profile: WriteProfile) -> None:
    write_profile('[[lower]]\nurl = "/usr/share"\n[[lower]]\nurl = "sftp://host/base"\non_down = "cache"\n')
    assert [lower.on_down for lower in load_profile("dev").lowers] == ["wait", "cache"]


REFUSED = {
    "no lower": ("", "lower: there is no lower layer; add a table [[lower]] with a url"),
    "single brackets": (
        '[lower]\nurl = "/usr"\n',
        "lower: write [[lower]] in double brackets, for there may be several",
    ),
    "lower is a string": (
        'lower = "/usr"\n',
        "lower: write an array ([...], or [[...]] of tables), not a string in quotes",
    ),
    "not TOML": (
        "[[lower]]\nurl = /usr\n",
        "not TOML: Invalid value (at line 2, column 7)",
    ),
    "unknown table": (LOWER + "[uper]\n", "uper: unknown key; did you mean 'upper'?"),
    "unknown key, nothing like it": (
        LOWER + "[cache]\nxyz = 1\n",
        "cache.xyz: unknown key; the keys here are: directory",
    ),
    "unknown key of a layer": (
        LOWER + "imutable = true\n",
        "lower[0].imutable: unknown key; did you mean 'immutable'?",
    ),
    "key of another backend": (
        LOWER + 'identity_file = "/k"\n',
        f"lower[0].identity_file: unknown key; the keys here are: {KEYS_OF_ALL_LOWERS}",
    ),
    "lower's key in the upper": (
        LOWER + '[upper]\nurl = "/var/upper"\nimmutable = true\n',
        "upper.immutable: unknown key; the keys here are: deadline, private, ttl, url, work",
    ),
    "string for bool": (
        LOWER + 'immutable = "yes"\n',
        "lower[0].immutable: write true or false, not a string in quotes",
    ),
    "number for bool": ("read_only = 1\n" + LOWER, "read_only: write true or false, not a whole number"),
    "string for number": (LOWER + 'ttl = "1"\n', "lower[0].ttl: write a number, not a string in quotes"),
    "negative": (LOWER + "ttl = -1\n", "lower[0].ttl: write a number >= 0.0"),
    "zero deadline": (LOWER + "deadline = 0\n", "lower[0].deadline: write a number > 0.0"),
    "infinite deadline": (LOWER + "deadline = inf\n", "lower[0].deadline: write a number <= 31536000.0"),
    "not a number": (LOWER + "deadline = nan\n", "lower[0].deadline: write a number"),
    "second layer": (
        LOWER + '[[lower]]\nurl = "/opt"\nttl = "1"\n',
        "lower[1].ttl: write a number, not a string in quotes",
    ),
    "path is a number": ("mountpoint = 1\n" + LOWER, "mountpoint: write a path in quotes"),
    "relative path": (
        'mountpoint = "mnt"\n' + LOWER,
        'mountpoint: write an absolute path, or one that begins with "~/"',
    ),
    "empty path": (
        LOWER + '[cache]\ndirectory = ""\n',
        'cache.directory: write an absolute path, or one that begins with "~/"',
    ),
    "no url": (
        "[[lower]]\nimmutable = true\n",
        "lower[0].url: missing; write the directory, or SCHEME://[USER@]HOST/PATH",
    ),
    "url is a number": ("[[lower]]\nurl = 1\n", "lower[0].url: write a string in quotes, not a whole number"),
    "relative url": (
        '[[lower]]\nurl = "base"\n',
        "lower[0].url: 'base' is neither an absolute path nor SCHEME://[USER@]HOST[:PORT]/PATH",
    ),
    "password in the url": (
        '[[lower]]\nurl = "sftp://me:secret@host/srv"\n',
        "lower[0].url: a password does not belong in a url: use a key, an agent or the backend's password options",
    ),
    "unknown scheme": (
        '[[lower]]\nurl = "gopher://host/share"\n',
        "lower[0].url: no backend for gopher:// is installed (there is: file, sftp, smb)",
    ),
    "an option that is a list": (
        '[[lower]]\nurl = "smb://host/share"\npassword_command = "pass show nas"\n',
        "lower[0].password_command: write an array ([...], or [[...]] of tables), not a string in quotes",
    ),
    "backend's option": (
        '[[lower]]\nurl = "sftp://host/srv"\nidentity_file = 3\n',
        "lower[0].identity_file: write a path in quotes",
    ),
    "backend's choice": (
        '[[lower]]\nurl = "sftp://host/srv"\ntransport = "telnet"\n',
        "lower[0].transport: write one of: 'paramiko', 'ssh'",
    ),
    "layer is no table": ("lower = [1]\n", "lower[0]: write a table, not a whole number"),
    "cache is no table": ("cache = 1\n" + LOWER, "cache: write a table, not a whole number"),
    "upper in a lower of the same server": (
        '[[lower]]\nurl = "sftp://host/srv"\n[upper]\nurl = "sftp://host/srv/upper"\n',
        (
            "upper.url: sftp://host/srv/upper lies in lower[0].url; write a directory that is not in a lower layer, "
            "nor around one"
        ),
    ),
    "read-only with an upper": (
        "read_only = true\n" + LOWER + '[upper]\nurl = "/var/upper"\n',
        "read_only: true beside an [upper] that takes changes; remove one of them",
    ),
    "the same lower twice": (LOWER + LOWER, "lower[1].url: the same as lower[0].url; remove one of them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_line(case: str, write_profile: WriteProfile) -> None:
    text, expected = REFUSED[case]
    file = write_profile(text)
    with pytest.raises(ConfigError) as caught:
        load_profile("dev")
    assert str(caught.value) == f"{file}: {expected}"


def test_wrong_encoding(write_profile: WriteProfile) -> None:
    file = write_profile("")
    file.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_profile("dev")
    assert str(caught.value) == f"{file}: byte 5 is not UTF-8; save the file as UTF-8"


def test_missing_path(home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(f"{home}/none.toml")
    assert str(caught.value) == f"{home}/none.toml: cannot be read: No such file or directory"


def test_a_password_in_a_url_is_not_quoted(write_profile: WriteProfile) -> None:
    write_profile('[[lower]]\nurl = "sftp://me:secret@host/srv"\n')
    with pytest.raises(ConfigError) as caught:
        load_profile("dev")
    assert "secret" not in str(caught.value)
    assert caught.value.key == "lower[0].url"


@given(st.recursive(st.integers() | st.booleans() | st.text() | st.floats(), st.lists))
def test_any_value_of_any_key_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Whatever stands in a profile, the answer is a profile or a ConfigError."""
    file = tmp_path_factory.mktemp("profiles") / "any.toml"
    for key in ("mountpoint", "read_only", "lower", "upper", "cache", "mount"):
        file.write_text(f"{key} = {_toml(value)}\n" + ("" if key == "lower" else LOWER), errors="ignore")
        with contextlib.suppress(ConfigError):
            load_profile(str(file))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" if c in '"\\' or not c.isprintable() else c for c in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)
