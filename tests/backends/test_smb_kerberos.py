"""Logging in at an SMB server with Kerberos tickets, of a real KDC; and one clear sentence where there is none."""

from __future__ import annotations

import getpass
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from smbprotocol.connection import Connection
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from netoverlay.backend_api import LayerSetupError, UnavailableError, parse_url
from netoverlay_smb.credentials import Credentials, resolve
from netoverlay_smb.options import SmbOptions
from tests.servers.kdc import REALM, Kdc
from tests.servers.smbd import SmbServer

DEADLINE = 10.0
PASSWORD = "correct horse battery staple"
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


def login(url: str, *, encrypt: bool = False) -> Session:
    """Log in, and enter the share."""
    # TODO of the backend's wiring: PLUGIN.create(parse_url(url), SmbOptions(auth="kerberos"), DEADLINE), connect() and
    # list_dir(""), as in test_sftp_login.py; until then smbprotocol alone, with what resolve() found.
    where = parse_url(url)
    found = ticket(url)
    connection = Connection(uuid.uuid4(), where.host, where.port)
    connection.connect(timeout=DEADLINE)
    try:
        session = Session(
            connection, found.principal, found.password, require_encryption=encrypt, auth_protocol=found.protocol
        )
        session.connect()
        TreeConnect(session, rf"\\{where.host}\base").connect()
    finally:
        connection.disconnect(close=True)
    return session


def refusal(url: str, error: type[OSError] = LayerSetupError, deadline: float = DEADLINE) -> str:
    with pytest.raises(error) as caught:
        ticket(url, deadline)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("encrypt", [False, True], ids=["signed", "encrypted"])
def test_the_ticket_of_the_cache(server, logged_in, encrypt):
    session = login(url_of(server), encrypt=encrypt)
    assert session.encrypt_data is encrypt
    assert session.signing_key


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
