"""Logging in at SMB servers of all kinds, protected as they can; and one clear sentence where it cannot be done."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, Creation, FileType, LayerSetupError, UnavailableError, parse_url
from netoverlay_smb import PLUGIN, SmbBackend, SmbOptions
from tests.backends.smb_layer import DEADLINE
from tests.servers.processes import free_port, required_program
from tests.servers.proxy import Proxy
from tests.servers.smbd import REMEDY, SmbServer

STRANGER = "nobody"
"""A second user of the server."""
NAMELESS = "???"
"""What Samba 4.17 calls the ciphers of 256 bits where it tells of its sessions."""
CONTENT = os.urandom(3_000_000)


def section(name: str, path: Path, *lines: str) -> list[str]:
    """A share of its own kind, as lines that follow those of [global]."""
    return [f"[{name}]", f"path = {path}", "read only = no", *lines]


@contextmanager
def serving(tmp_path: Path, *settings: str, share_settings: Sequence[str] = ()) -> Iterator[SmbServer]:
    """A server with the share `base`, which holds a file."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "file").write_bytes(CONTENT)
    with SmbServer(tmp_path / "smbd", {"base": base}, settings=settings, share_settings=share_settings) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[SmbServer]:
    with tempfile.TemporaryDirectory() as name:  # and not below pytest's, which is nobody else's
        place = Path(name)
        place.chmod(0o755)
        base = place / "base"
        (base / "closed").mkdir(parents=True)
        (base / "closed").chmod(0o700)
        (base / "file").touch()
        settings = section("guarded", base, f"valid users = {STRANGER}")
        passwords = {STRANGER: "correct horse battery staple"}
        with SmbServer(place / "smbd", {"base": base}, settings=settings, passwords=passwords) as running:
            yield running


def secret(tmp_path: Path, password: str) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{password}\n")
    path.chmod(0o600)
    return path


def backend_at(url: str, deadline: float = DEADLINE, **options: object) -> SmbBackend:
    return PLUGIN.create(parse_url(url), SmbOptions(**options), deadline)


def login(url: str, deadline: float = DEADLINE, **options: object) -> list[str]:
    """Connect, and look at the root to see that it works; the names in it."""
    with backend_at(url, deadline, **options) as backend:
        backend.connect()
        return sorted(entry.name for entry in backend.list_dir(""))


def refusal(url: str, error: type[OSError] = LayerSetupError, deadline: float = DEADLINE, **options: object) -> str:
    with pytest.raises(error) as caught:
        login(url, deadline, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


# How what is sent is protected.


def protection(server: SmbServer) -> tuple[str, str, str]:
    """Dialect, signing and encryption of the one session at the server, as the server itself tells them."""
    words = [required_program("smbstatus", REMEDY), f"--configfile={server.config}", "--json"]
    told = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    (session,), (share,) = told["sessions"].values(), told["tcons"].values()
    assert share["encryption"]["degree"] in ("none", "full")
    assert share["signing"]["degree"] in ("none", "full")
    return session["session_dialect"], share["signing"]["cipher"], share["encryption"]["cipher"]


def exercised(server: SmbServer, **options: object) -> tuple[str, str, str]:
    """protection() of a layer that was read, written and listed."""
    with backend_at(server.url("base"), password_file=server.password_file, **options) as backend:
        backend.connect()
        with backend.open("file", Access.READ) as file:
            assert file.read_at(0, len(CONTENT) + 1) == CONTENT
        with backend.open("copy", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at(0, CONTENT)
            assert file.read_at(1_000_000, 500_000) == CONTENT[1_000_000:1_500_000]
        assert (server.shares["base"] / "copy").read_bytes() == CONTENT
        listed = {entry.name: entry.stat.size for entry in backend.list_dir("")}
        assert listed == {"file": len(CONTENT), "copy": len(CONTENT)}
        link = backend._connector.session().link
        dialect, signing, encryption = protection(server)
        if link.sealer is None:
            assert encryption == "-"
            assert (link.signer.name if link.signer else "-") == signing
        else:  # what is encrypted is as good as signed, and the server says that it is
            assert encryption in (link.sealer.name, NAMELESS)
            encryption = link.sealer.name
        return dialect, signing, encryption


DIALECTS = {
    "SMB2_10": ("HMAC-SHA256", ""),
    "SMB3_00": ("AES-128-CMAC", "AES-128-CCM"),
    "SMB3_02": ("AES-128-CMAC", "AES-128-CCM"),
    "SMB3_11": ("AES-128-GMAC", "AES-128-GCM"),
}
"""What they are signed and encrypted with, if nobody says otherwise."""


@pytest.fixture(params=DIALECTS)
def dialect(request) -> str:
    return request.param


def only(dialect: str) -> list[str]:
    return [f"server min protocol = {dialect}", f"server max protocol = {dialect}"]


def test_every_dialect_signed(tmp_path, dialect):
    with serving(tmp_path, *only(dialect)) as server:
        assert exercised(server) == (dialect, DIALECTS[dialect][0], "-")


def test_every_dialect_in_the_clear(tmp_path, dialect):
    with serving(tmp_path, *only(dialect)) as server:
        assert exercised(server, sign=False) == (dialect, "-", "-")


@pytest.mark.parametrize("dialect", [dialect for dialect, (_, cipher) in DIALECTS.items() if cipher], indirect=True)
@pytest.mark.parametrize("demand", ["the profile", "the share", "the server"])
def test_every_dialect_encrypted(tmp_path, dialect, demand):
    """Who does not ask for it gets it all the same, where the server wants it so."""
    required = ["smb encrypt = required"]
    settings = [*only(dialect), *(required if demand == "the server" else [])]
    share_settings = required if demand == "the share" else []
    with serving(tmp_path, *settings, share_settings=share_settings) as server:
        signing, cipher = DIALECTS[dialect]
        options = {"encrypt": True} if demand == "the profile" else {"sign": False}
        assert exercised(server, **options) == (dialect, signing, cipher)


@pytest.mark.parametrize("algorithm", ["AES-128-GMAC", "AES-128-CMAC", "HMAC-SHA256"])
def test_every_signing_algorithm(tmp_path, algorithm):
    with serving(tmp_path, f"server smb3 signing algorithms = {algorithm.lower()}") as server:
        assert exercised(server) == ("SMB3_11", algorithm, "-")


@pytest.mark.parametrize("cipher", ["AES-128-GCM", "AES-128-CCM", "AES-256-GCM", "AES-256-CCM"])
def test_every_cipher(tmp_path, cipher):
    with serving(tmp_path, f"server smb3 encryption algorithms = {cipher}") as server:
        assert exercised(server, encrypt=True) == ("SMB3_11", "AES-128-GMAC", cipher)


def test_a_server_that_insists_on_signing_gets_it(tmp_path, dialect):
    with serving(tmp_path, *only(dialect), "server signing = mandatory") as server:
        assert exercised(server, sign=False) == (dialect, DIALECTS[dialect][0], "-")


def test_a_server_that_would_rather_not_sign_does(tmp_path, dialect):
    with serving(tmp_path, *only(dialect), "server signing = disabled") as server:
        assert exercised(server) == (dialect, DIALECTS[dialect][0], "-")


# Who may come in.


@pytest.mark.skipif(os.geteuid() != 0, reason="only a server that root runs has other users")
def test_a_further_user(server, monkeypatch):
    monkeypatch.setenv("SECRET", server.passwords[STRANGER])
    for share in ("base", "guarded"):
        assert login(server.url(share, user=STRANGER), password_env="SECRET") == ["closed", "file"]


def test_a_name_of_a_share_or_directory_in_another_case(server):
    assert login(server.url("BASE", "CLOSED"), password_file=server.password_file) == []


def test_a_wrong_password(server, tmp_path):
    said = refusal(server.url("base"), password_file=secret(tmp_path, "wrong"))
    assert f"{server.user} at //127.0.0.1:{server.port}/base: the login was refused" in said
    assert "password" in said


def test_a_user_that_the_server_does_not_know(server, tmp_path):
    said = refusal(server.url("base", user="no-such-user"), password_file=secret(tmp_path, "any"))
    assert f"no-such-user at //127.0.0.1:{server.port}/base: the login was refused" in said
    assert "user" in said


def test_a_share_that_there_is_not(server):
    said = refusal(server.url("none"), password_file=server.password_file)
    assert f"//127.0.0.1:{server.port}/none: there is no such share" in said


def test_a_share_that_the_user_may_not_reach(server):
    said = refusal(server.url("guarded"), password_file=server.password_file)
    assert f"{server.user} at //127.0.0.1:{server.port}/guarded: access to the share is denied" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only a server that root runs has other users")
def test_a_directory_that_the_user_may_not_reach(server, monkeypatch):
    monkeypatch.setenv("SECRET", server.passwords[STRANGER])
    url = server.url("base", "closed/directory", user=STRANGER)
    said = refusal(url, password_env="SECRET")
    assert f"{url}: the directory cannot be used: Permission denied" in said


@pytest.mark.parametrize(
    ("path", "reason"),
    {
        "none": "No such file",
        "none/deeper": "No such file",
        "file": "no directory",
        "file/x": "Not a directory",
    }.items(),
)
def test_the_root_must_be_a_directory(server, path, reason):
    url = server.url("base", path)
    said = refusal(url, password_file=server.password_file)
    assert f"{url}: the " in said
    assert reason in said


def test_the_root_may_be_no_symbolic_link(server):
    """Neither one of ours, nor one that lies on the server's disk and leads nowhere there."""
    with backend_at(server.url("base"), password_file=server.password_file) as backend:
        backend.connect()
        backend.symlink("link", "closed")
    (server.shares["base"] / "dangling").symlink_to("nowhere")
    try:
        for name, reason in {"link": "no directory", "dangling": "No such file"}.items():
            assert reason in refusal(server.url("base", name), password_file=server.password_file)
    finally:
        (server.shares["base"] / "link").unlink()
        (server.shares["base"] / "dangling").unlink()


@pytest.mark.parametrize("mapped", ["bad user", "bad password"])
@pytest.mark.parametrize("options", [{}, {"sign": False}, {"encrypt": True}], ids=["signed", "clear", "encrypted"])
def test_nobody_becomes_a_guest(tmp_path, mapped, options):
    """The server would let a guest in. Whoever asked for another user must not become one without knowing."""
    settings = (f"map to guest = {mapped}", f"guest account = {STRANGER}")
    with serving(tmp_path, *settings, share_settings=("guest ok = yes",)) as server:
        wrong = secret(tmp_path, "wrong")
        user = "no-such-user" if mapped == "bad user" else server.user
        url = server.url("base", user=user)
        said = refusal(url, password_file=wrong, **options)
        assert f"{user} at //127.0.0.1:{server.port}/base: " in said
        assert "guest" in said
        assert login(server.url("base"), password_file=server.password_file, **options) == ["file"]


def test_an_account_that_has_expired(tmp_path):
    with serving(tmp_path) as server:
        words = [
            required_program("pdbedit", REMEDY),
            f"--configfile={server.config}",
            "--modify",
            "--user",
            server.user,
        ]
        subprocess.run([*words, "--kickoff-time=1"], check=True, capture_output=True)
        said = refusal(server.url("base"), password_file=server.password_file)
        assert f"{server.user} at //127.0.0.1:{server.port}/base: the login was refused" in said


def test_an_address_from_which_nobody_is_let_in(tmp_path):
    with serving(tmp_path, "hosts deny = 127.0.0.1") as server:
        said = refusal(server.url("base"), password_file=server.password_file)
        assert f"//127.0.0.1:{server.port}/base" in said
        assert "address" in said


# Encryption that is not to be had.


def test_a_server_that_has_encryption_switched_off(tmp_path):
    with serving(tmp_path, "smb encrypt = off") as server:
        said = refusal(server.url("base"), password_file=server.password_file, encrypt=True)
        assert f"//127.0.0.1:{server.port}/base" in said
        assert "encrypt = true demands it" in said
        assert exercised(server)[2] == "-"


def test_a_dialect_without_encryption(tmp_path):
    with serving(tmp_path, "server max protocol = SMB2_10") as server:
        said = refusal(server.url("base"), password_file=server.password_file, encrypt=True)
        assert "encrypt = true demands it" in said


@pytest.mark.parametrize("demand", ["the share", "the server"])
def test_a_demand_for_encryption_from_a_dialect_without_it(tmp_path, demand):
    required = ["smb encrypt = required"]
    settings = ["server max protocol = SMB2_10", *(required if demand == "the server" else [])]
    with serving(tmp_path, *settings, share_settings=required if demand == "the share" else []) as server:
        said = refusal(server.url("base"), password_file=server.password_file)
        assert f"{server.user} at //127.0.0.1:{server.port}/base" in said


# What is too old, or no SMB server at all.


def test_a_server_of_smb_2_0(tmp_path):
    with serving(tmp_path, "server max protocol = SMB2_02") as server:
        said = refusal(server.url("base"), password_file=server.password_file)
        assert f"//127.0.0.1:{server.port}/base" in said
        assert "SMB 2.1" in said


def test_a_server_of_smb_1(tmp_path):
    """It hangs up on whoever speaks SMB 2."""
    with serving(tmp_path, "server min protocol = NT1", "server max protocol = NT1") as server:
        said = refusal(server.url("base"), UnavailableError, password_file=server.password_file)
        assert f"//127.0.0.1:{server.port}/base" in said
        assert "SMB 2.1" in said


def test_nobody_listens(server):
    port = free_port()
    said = refusal(server.url("base", port=port), UnavailableError, password_file=server.password_file)
    assert f"//127.0.0.1:{port}/base" in said
    assert "refused" in said


def test_a_name_that_does_not_exist(server):
    said = refusal("smb://somebody@no-such-host.invalid/base", UnavailableError, password_file=server.password_file)
    assert "//no-such-host.invalid/base" in said
    assert "resolve" in said


def test_a_host_that_says_nothing(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = server.url("base", port=silent.getsockname()[1])
        assert "in time" in refusal(url, UnavailableError, deadline=1.0, password_file=server.password_file)


def test_a_server_that_falls_silent_in_the_middle(server):
    with Proxy(server.port, delay=0.05) as proxy:
        threading.Timer(0.15, proxy.silence).start()
        url = server.url("base", port=proxy.port)
        assert "in time" in refusal(url, UnavailableError, deadline=1.0, password_file=server.password_file)


def test_the_port_of_an_ssh_server(server, sshd):
    said = refusal(server.url("base", port=sshd.port), UnavailableError, password_file=server.password_file)
    assert f"127.0.0.1:{sshd.port}" in said
    assert "no SMB2" in said


_HEADER = b"\xfeSMB\x40\0" + bytes(58)
ANSWERS = {
    "nothing": b"",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(4096),
    "a part of a message": b"\0\0\1\0" + _HEADER,
    "a message of nobody": b"\0\0\1\0" + b"\xff" * 256,
    "SMB 1": b"\0\0\0\x40\xffSMB\x72" + bytes(59),
    "a reply without a body": b"\0\0\0\x40" + _HEADER,
    "a reply that makes no sense": b"\0\0\1\0" + _HEADER + b"\xff" * 192,
    "a refusal of a NetBIOS session": b"\x83\0\0\1\x81",
    "something encrypted": b"\0\0\1\0\xfdSMB" + bytes(252),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_talks_nonsense(server, answer):
    def talk() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100_000)
            connection.sendall(ANSWERS[answer])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        talking = threading.Thread(target=talk)
        talking.start()
        url = server.url("base", port=listener.getsockname()[1])
        with pytest.raises((UnavailableError, LayerSetupError)) as caught:
            login(url, 5.0, password_file=server.password_file)
        talking.join()
    assert f"127.0.0.1:{listener_port(url)}" in str(caught.value)


def listener_port(url: str) -> int | None:
    return parse_url(url).port


# What is said, and what is not.


def checked(tmp_path: Path, url: str, password_file: Path) -> subprocess.CompletedProcess[str]:
    """What `netoverlay check` says to a person."""
    profile = tmp_path / "profile.toml"
    profile.write_text(f'[[lower]]\nurl = "{url}"\npassword_file = "{password_file}"\ndeadline = 5.0\n')
    command = [sys.executable, "-m", "netoverlay", "check", str(profile)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_person_gets_the_one_line(server, tmp_path):
    wrong = secret(tmp_path, "wrong")
    for url, password_file, reason in (
        (server.url("base"), wrong, "password"),
        (server.url("none"), server.password_file, "no such share"),
        (server.url("guarded"), server.password_file, "access to the share is denied"),
        (server.url("base", "none"), server.password_file, "No such file or directory"),
        (server.url("base", port=free_port()), server.password_file, "connection was refused"),
    ):
        done = checked(tmp_path, url, password_file)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert url in done.stderr
        assert reason in done.stderr
    done = checked(tmp_path, server.url("base"), server.password_file)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("right", [True, False])
def test_the_password_is_nowhere_to_be_seen(server, tmp_path, caplog, right):
    password = server.password if right else "a wrong password"
    with caplog.at_level(logging.DEBUG), backend_at(server.url("base"), password_file=secret(tmp_path, password)) as it:
        try:
            it.connect()
        except LayerSetupError as error:
            said = "".join(traceback.format_exception(error))
        else:
            said = repr(it._connector.session().link)
    assert caplog.records
    shown = [said, *(record.getMessage() for record in caplog.records)]
    for form in (password, password.encode("utf-16-le").hex(), password.encode().hex(), repr(password.encode())):
        assert not [line for line in shown if form in line]


# Distributed file systems.


@pytest.fixture(scope="module")
def name_space(tmp_path_factory) -> Iterator[SmbServer]:
    """The share `names` holds links, which lead to the shares `one` and `two` of the same server."""
    place = tmp_path_factory.mktemp("dfs")
    for directory in ("names/plain", "one/in/deep", "two"):
        (place / directory).mkdir(parents=True)
    for share in ("one", "two"):
        (place / share / f"file of {share}").write_text(share)
    (place / "one/in/deep/file").touch()
    for name, targets in {
        "link": r"127.0.0.1\one",
        "below": r"127.0.0.1\one\in",
        "second": r"127.0.0.1\two",
        "chain": r"127.0.0.1\names\link",
        "there": r"127.0.0.1\names\back",
        "back": r"127.0.0.1\names\there",
        "itself": r"127.0.0.1\names\itself",
        "nowhere": r"127.0.0.1\none",
        "far": r"no-such-host.invalid\share",
        "either": r"127.0.0.1\none,127.0.0.1\two",
        "neither": r"127.0.0.1\none,no-such-host.invalid\share",
        "plain/link": r"127.0.0.1\one",
    }.items():
        (place / "names" / name).symlink_to(f"msdfs:{targets}")
    settings = ["host msdfs = yes", *section("names", place / "names", "msdfs root = yes")]
    with SmbServer(place / "smbd", {"one": place / "one", "two": place / "two"}, settings=settings) as running:
        yield running


LEADS_TO = {
    "plain": ["link"],
    "link": ["file of one", "in"],
    "LINK/IN": ["deep"],
    "link/in/deep": ["file"],
    "below": ["deep"],
    "below/deep": ["file"],
    "second": ["file of two"],
    "chain": ["file of one", "in"],
    "chain/in": ["deep"],
    "plain/link/in": ["deep"],
    "either": ["file of two"],
}


@pytest.mark.parametrize("path", LEADS_TO)
def test_a_link_of_a_name_space_leads_to_another_share(name_space, path):
    assert login(name_space.url("names", path), password_file=name_space.password_file) == LEADS_TO[path]


@pytest.mark.parametrize("options", [{"sign": False}, {"encrypt": True}], ids=["clear", "encrypted"])
def test_a_link_of_a_name_space_protected_otherwise(name_space, options):
    found = login(name_space.url("names", "chain"), password_file=name_space.password_file, **options)
    assert found == LEADS_TO["chain"]


def test_what_a_link_leads_to_can_be_written(name_space):
    with backend_at(name_space.url("names", "second"), password_file=name_space.password_file) as backend:
        backend.connect()
        with backend.open("made", Access.WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at(0, b"content")
        made = name_space.shares["two"] / "made"
        assert made.read_bytes() == b"content"
        backend.unlink("made")
        assert not made.exists()


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("there", LayerSetupError, "circle"),
        ("itself", LayerSetupError, "remote"),
        ("nowhere", LayerSetupError, "none: there is no such share"),
        ("far", UnavailableError, "no-such-host.invalid"),
        ("neither", UnavailableError, "no-such-host.invalid"),
        ("missing", LayerSetupError, "No such file"),
        ("link/missing", LayerSetupError, "No such file"),
        ("link/file of one", LayerSetupError, "no directory"),
    ],
)
def test_a_link_of_a_name_space_that_leads_nowhere(name_space, path, error, reason):
    url = name_space.url("names", path).replace(" ", "%20")
    assert reason in refusal(url, error, password_file=name_space.password_file)


@pytest.mark.parametrize("permissions", ["server", "profile"])
def test_links_below_the_root_are_not_followed(name_space, permissions):
    """They are listed, as directories, with what is beside them; that they lead elsewhere is told by opening one."""
    url = name_space.url("names", "plain")
    with backend_at(url, password_file=name_space.password_file, permissions=permissions) as backend:
        backend.connect()
        (entry,) = backend.list_dir("")
        assert (entry.name, entry.stat.type) == ("link", FileType.DIRECTORY)
        for call in (
            lambda: backend.stat("link"),
            lambda: backend.list_dir("link"),
            lambda: backend.stat("link/in"),
            lambda: backend.open("link/in/deep/file", Access.READ),
            lambda: backend.mkdir("link/made", 0o700),
            lambda: backend.rename("link", "other"),
            lambda: backend.rmdir("link"),
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011  (the errno is what matters)
                call()
            assert caught.value.errno == errno.EREMOTE
