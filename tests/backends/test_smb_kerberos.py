"""Logging in at an SMB server with Kerberos tickets, of a real KDC; and one clear sentence where there is none."""

from __future__ import annotations

import getpass
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, LayerSetupError, UnavailableError, parse_url
from netoverlay_smb import PLUGIN, SmbOptions
from netoverlay_smb.credentials import Credentials, resolve
from netoverlay_smb.session import Session
from tests.servers.kdc import REALM, Kdc
from tests.servers.smbd import SmbServer

DEADLINE = 10.0
PASSWORD = "correct horse battery staple"
CONTENT = b"what the file holds"
STRANGER = "stranger"
"""Whom the realm knows, and the server does not."""


@pytest.fixture(scope="module")
def kdc(tmp_path_factory) -> Iterator[Kdc]:
    with Kdc(tmp_path_factory.mktemp("realm") / "kdc") as running:
        running.add_service("cifs/localhost")
        running.add_user(getpass.getuser(), PASSWORD)
        running.add_user(STRANGER, PASSWORD)
        yield running


@pytest.fixture(scope="module")
def server(kdc, tmp_path_factory) -> Iterator[SmbServer]:
    directory = tmp_path_factory.mktemp("kerberized")
    (directory / "base").mkdir()
    (directory / "base" / "file").write_bytes(CONTENT)
    with SmbServer(directory / "smbd", {"base": directory / "base"}, settings=kdc.samba_settings()) as running:
        yield running


@pytest.fixture
def tickets(kdc, tmp_path, monkeypatch) -> Path:
    """The cache of this test's tickets; nobody has logged in yet."""
    for name, value in kdc.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'tickets'}")
    return tmp_path / "tickets"


@pytest.fixture
def logged_in(kdc, tickets) -> Path:
    kdc.kinit(getpass.getuser(), PASSWORD, cache=tickets)
    return tickets


def url_of(server: SmbServer, login: str = "") -> str:
    """By the name that there is a ticket for."""
    return f"smb://{login}localhost:{server.port}/base"


def ticket(url: str, deadline: float = DEADLINE) -> Credentials:
    return resolve(parse_url(url), SmbOptions(auth="kerberos"), deadline)


def login(url: str, deadline: float = DEADLINE, **options: object) -> Session:
    """Connect, and look at the root to see that it works; what the login has led to."""
    with PLUGIN.create(parse_url(url), SmbOptions(auth="kerberos", **options), deadline) as backend:
        backend.connect()
        assert [entry.name for entry in backend.list_dir("")] == ["file"]
        with backend.open("file", Access.READ) as file:
            assert file.read_at(0, 100) == CONTENT
        return backend._connector.session()


def refusal(url: str, error: type[OSError] = LayerSetupError, deadline: float = DEADLINE) -> str:
    with pytest.raises(error) as caught:
        ticket(url, deadline)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_the_ticket_of_the_cache(server, logged_in):
    link = login(url_of(server)).link
    assert link.signer is not None
    assert link.sealer is None


def test_what_is_encrypted_by_a_key_of_the_ticket(server, logged_in):
    link = login(url_of(server), encrypt=True).link
    assert link.sealer is not None
    assert link.sealer.name == "AES-128-GCM"


def test_what_is_neither_signed_nor_encrypted(server, logged_in):
    link = login(url_of(server), sign=False).link
    assert link.signer is None
    assert link.sealer is None


@pytest.mark.parametrize("cipher", ["AES-256-GCM", "AES-256-CCM"])
def test_ciphers_with_the_whole_key_of_the_ticket(kdc, logged_in, tmp_path, cipher):
    """Whose keys are made of more of the session's than those of the others."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "file").write_bytes(CONTENT)
    settings = [*kdc.samba_settings(), f"server smb3 encryption algorithms = {cipher}"]
    with SmbServer(tmp_path / "smbd", {"base": tmp_path / "base"}, settings=settings) as strict:
        link = login(url_of(strict), encrypt=True).link
    assert link.sealer is not None
    assert link.sealer.name == cipher


@pytest.mark.parametrize("dialect", ["SMB2_10", "SMB3_00", "SMB3_02"])
def test_older_dialects(kdc, logged_in, tmp_path, dialect):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "file").write_bytes(CONTENT)
    settings = [*kdc.samba_settings(), f"server max protocol = {dialect}"]
    with SmbServer(tmp_path / "smbd", {"base": tmp_path / "base"}, settings=settings) as older:
        assert login(url_of(older)).link.signer is not None


def test_who_has_a_ticket_and_is_unknown_to_the_server(server, kdc, tickets):
    kdc.kinit(STRANGER, PASSWORD, cache=tickets)
    with pytest.raises(LayerSetupError) as caught:
        login(url_of(server))
    assert "\n" not in str(caught.value)
    assert "the login was refused" in str(caught.value)


def test_a_layer_that_connects_again_with_its_ticket(server, logged_in):
    with PLUGIN.create(parse_url(url_of(server)), SmbOptions(auth="kerberos"), DEADLINE) as backend:
        backend.connect()
        with backend.open("file", Access.READ_WRITE) as file:
            backend._connector.session().engine.fail("the test says so")
            assert file.read_at(0, 100) == CONTENT


@pytest.mark.parametrize("form", ["{user}@", f"{REALM};{{user}}@", f"{{user}}@{REALM}@", f"{{user}}%40{REALM}@"])
def test_the_user_of_the_url(server, logged_in, form):
    login(url_of(server, form.format(user=server.user)))


def test_no_ticket(server, tickets):
    said = refusal(url_of(server))
    assert str(tickets) in said
    assert said.endswith(": kinit")


def test_the_remedy_for_no_ticket_works(server, kdc, tickets):
    refusal(url_of(server))
    kdc.kinit(server.user, PASSWORD, cache=tickets)
    login(url_of(server))


def test_no_ticket_of_that_user(server, logged_in):
    said = refusal(url_of(server, f"{REALM};{STRANGER}@"))
    assert said.endswith(f": kinit {STRANGER}@{REALM}")


def test_a_ticket_that_expired(server, kdc, tickets):
    kdc.kinit(server.user, PASSWORD, cache=tickets, lifetime="1s")
    time.sleep(2.1)  # the times of tickets are whole seconds
    for form in ("", f"{server.user}@"):
        said = refusal(url_of(server, form))
        assert "expired" in said
        assert "kinit" in said


def test_a_name_that_the_realm_does_not_know(server, logged_in):
    said = refusal(f"smb://127.0.0.1:{server.port}/base")
    assert "cifs/127.0.0.1" in said
    assert "no address" in said


def test_a_realm_that_nobody_knows(server, logged_in, kdc, tmp_path, monkeypatch):
    config = tmp_path / "krb5.conf"
    config.write_text(kdc.config.read_text().replace(f"localhost = {REALM}", "localhost = ELSEWHERE.TEST"))
    monkeypatch.setenv("KRB5_CONFIG", str(config))
    assert "ELSEWHERE.TEST" in refusal(url_of(server))


def test_a_configuration_that_cannot_be_read(server, logged_in, tmp_path, monkeypatch):
    config = tmp_path / "krb5.conf"
    config.write_text("[libdefaults\n")
    monkeypatch.setenv("KRB5_CONFIG", str(config))
    assert "krb5.conf" in refusal(url_of(server))


def test_a_kdc_that_is_down(server, kdc, logged_in):
    kdc.stop()
    try:
        assert REALM in refusal(url_of(server), UnavailableError)
    finally:
        kdc.start()
    login(url_of(server))


def test_a_ticket_for_the_server_is_good_without_the_kdc(server, kdc, logged_in):
    ticket(url_of(server))
    kdc.stop()
    try:
        login(url_of(server))
    finally:
        kdc.start()


def test_a_kdc_that_is_silent_takes_no_longer_than_the_deadline(server, kdc, logged_in, tmp_path, monkeypatch):
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        stream.bind(("127.0.0.1", 0))
        stream.listen()
        datagrams.bind(stream.getsockname())
        config = tmp_path / "krb5.conf"
        config.write_text(kdc.config.read_text().replace(f":{kdc.port}", f":{stream.getsockname()[1]}"))
        monkeypatch.setenv("KRB5_CONFIG", str(config))
        before = time.monotonic()
        said = refusal(url_of(server), UnavailableError, deadline=0.5)
        assert time.monotonic() - before < 3
    assert "within 0.5 s" in said


@pytest.mark.parametrize("package", ["gssapi", "krb5"])
def test_a_package_that_is_not_installed(server, logged_in, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = refusal(url_of(server))
    assert package in said
    assert "pip install 'netoverlay[kerberos]'" in said
