"""Logging in as the user's ssh does, on real servers; and one clear sentence where it cannot be done."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.backend_api import LayerSetupError, UnavailableError, parse_url
from netoverlay_sftp import PLUGIN, SftpBackend, SftpOptions
from netoverlay_sftp.keys import KeyRing
from tests.backends.sftp_layer import DEADLINE, TRANSPORTS
from tests.servers.sshd import SshServer, make_key, required_program

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("login") / "sshd", user_certificates=True) as running:
        yield running


@pytest.fixture(autouse=True)
def _without_agent(monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def login(url: str, deadline: float = DEADLINE, **options: object) -> SftpBackend:
    """Connect, and look at the root to see that it works."""
    backend = PLUGIN.create(parse_url(url), SftpOptions(**options), deadline)
    try:
        backend.connect()
        backend.list_dir("")
    finally:
        backend.close()
    return backend


def refusal(url: str, error: type[OSError] = LayerSetupError, deadline: float = DEADLINE, **options: object) -> str:
    with pytest.raises(error) as caught:
        login(url, deadline, **options)
    assert isinstance(caught.value, error)
    return str(caught.value)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_key_and_a_known_host(server, tmp_path, transport):
    login(server.url(tmp_path), identity_file=server.identity_file, known_hosts=server.known_hosts, transport=transport)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_other_kinds(server, tmp_path, kind):
    key = make_key(tmp_path / "key", kind=kind)
    server.sign_user_key(key)
    login(server.url(tmp_path), identity_file=key, known_hosts=server.known_hosts)


# Host keys.


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unknown_host_is_refused(server, tmp_path, transport):
    empty = tmp_path / "known_hosts"
    said = refusal(server.url(tmp_path), identity_file=server.identity_file, known_hosts=empty, transport=transport)
    assert f"127.0.0.1]:{server.port}" in said or f"127.0.0.1:{server.port}" in said
    if transport == "paramiko":
        assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {empty}" in said


def test_the_remedy_for_an_unknown_host_works(server, tmp_path):
    empty = tmp_path / "known_hosts"
    said = refusal(server.url(tmp_path), identity_file=server.identity_file, known_hosts=empty)
    remedy = said[said.index("ssh-keyscan") :]
    subprocess.run(["sh", "-c", remedy], check=True, capture_output=True)
    login(server.url(tmp_path), identity_file=server.identity_file, known_hosts=empty)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_changed_host_key_is_refused(server, tmp_path, transport):
    other = make_key(tmp_path / "other")
    known = tmp_path / "known_hosts"
    kind, key = Path(f"{other}.pub").read_text().split()[:2]
    known.write_text(f"# somebody's\n[127.0.0.1]:{server.port} {kind} {key}\n")
    said = refusal(server.url(tmp_path), identity_file=server.identity_file, known_hosts=known, transport=transport)
    if transport == "paramiko":
        assert "has changed" in said
        assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {known}" in said
        assert "line 2" in said


LINES = {
    "hashed": None,
    "a pattern": "[127.0.0.*]:{port},other {key}",
    "a pattern with a question mark": "[127.0.0.?]:* {key}",
    "upper case": "[127.0.0.1]:{port} {key} a comment",
    "after a damaged line": "[127.0.0.1]:{port} ssh-ed25519 ???\n[127.0.0.1]:{port} {key}",
    "with another kind of key first": "[127.0.0.1]:{port} ssh-rsa AAAA\n[127.0.0.1]:{port} {key}",
}


@pytest.mark.parametrize("form", LINES)
def test_known_hosts_in_all_forms(server, tmp_path, form):
    known = tmp_path / "known_hosts"
    line = LINES[form]
    if line is None:
        known.write_text(server.host_key_line() + "\n")
        subprocess.run([required_program("ssh-keygen"), "-q", "-H", "-f", known], check=True, capture_output=True)
        assert "127.0.0.1" not in known.read_text()
    else:
        known.write_text(line.format(port=server.port, key=server.host_key_line().split(" ", 1)[1]) + "\n")
    login(server.url(tmp_path), identity_file=server.identity_file, known_hosts=known)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("!*,[127.0.0.1]:{port} {key}", "not known"),
        ("[127.0.0.1]:{port},!*:{port} {key}", "not known"),
        ("127.0.0.1 {key}", "not known"),
        ("@revoked * {key}", "revoked"),
        ("[127.0.0.1]:{port} {key}\n@revoked [127.0.0.1]:{port} {key}", "revoked"),
        ("@cert-authority [127.0.0.1]:{port} {key}", 'transport = "ssh"'),
    ],
)
def test_known_hosts_that_do_not_vouch(server, tmp_path, line, said):
    known = tmp_path / "known_hosts"
    known.write_text(line.format(port=server.port, key=server.host_key_line().split(" ", 1)[1]) + "\n")
    assert said in refusal(server.url(tmp_path), identity_file=server.identity_file, known_hosts=known)


# Keys, the agent, certificates.


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_refused_key_is_named(server, tmp_path, transport):
    stranger = make_key(tmp_path / "stranger")
    said = refusal(server.url(tmp_path), identity_file=stranger, known_hosts=server.known_hosts, transport=transport)
    assert (str(stranger) if transport == "paramiko" else "Permission denied") in said


def test_a_missing_or_useless_key_is_named(server, tmp_path):
    options = {"known_hosts": server.known_hosts}
    assert "does not exist" in refusal(server.url(tmp_path), identity_file=tmp_path / "none", **options)
    useless = tmp_path / "useless"
    useless.write_text("no key")
    assert f"{useless}: no private key" in refusal(server.url(tmp_path), identity_file=useless, **options)


@pytest.fixture
def agent(tmp_path, monkeypatch) -> Iterator[Path]:
    path = tmp_path / "agent"
    with subprocess.Popen([required_program("ssh-agent"), "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        give_up_at = time.monotonic() + DEADLINE
        while not path.exists():
            assert time.monotonic() < give_up_at, "ssh-agent did not start"
            time.sleep(0.01)
        yield path
        process.terminate()


def add_to_agent(key: Path) -> None:
    subprocess.run([required_program("ssh-add"), "-q", key], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_agent_has_the_key(server, tmp_path, agent, transport):
    add_to_agent(server.identity_file)
    settings = config(tmp_path, f"UserKnownHostsFile {server.known_hosts}\nIdentityFile none\n")
    login(server.url(tmp_path), ssh_config=settings, transport=transport)


def test_the_agent_of_the_configuration(server, tmp_path, agent, monkeypatch):
    add_to_agent(server.identity_file)
    monkeypatch.delenv("SSH_AUTH_SOCK")
    settings = config(tmp_path, f"IdentityAgent {agent}\nIdentityFile none\n")
    login(server.url(tmp_path), ssh_config=settings, known_hosts=server.known_hosts)


def test_the_agent_has_what_is_encrypted_in_the_file(server, tmp_path, agent):
    key = tmp_path / "key"
    key.write_bytes(server.identity_file.read_bytes())
    key.chmod(0o600)
    add_to_agent(key)
    change = [required_program("ssh-keygen"), "-q", "-p", "-P", "", "-N", PASSPHRASE, "-f", key]
    subprocess.run(change, check=True, capture_output=True)
    login(server.url(tmp_path), identity_file=key, known_hosts=server.known_hosts)


def test_only_the_key_that_was_asked_for_is_tried(server, tmp_path, agent):
    add_to_agent(server.identity_file)
    stranger = make_key(tmp_path / "stranger")
    said = refusal(server.url(tmp_path), identity_file=stranger, known_hosts=server.known_hosts)
    assert "agent" not in said


def test_an_agent_that_is_gone_is_mentioned(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    stranger = make_key(tmp_path / "stranger")
    assert f"the agent at {tmp_path / 'gone'}" in refusal(
        server.url(tmp_path), identity_file=stranger, known_hosts=server.known_hosts
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_certificate_beside_the_key(server, tmp_path, transport):
    key = make_key(tmp_path / "key")
    server.sign_user_key(key)
    login(server.url(tmp_path), identity_file=key, known_hosts=server.known_hosts, transport=transport)


def test_a_certificate_of_the_configuration(server, tmp_path, agent):
    key = make_key(tmp_path / "key")
    add_to_agent(key)
    certificate = server.sign_user_key(key).rename(tmp_path / "elsewhere.pub")
    settings = config(tmp_path, f"CertificateFile {certificate}\nIdentityFile {key}\n")
    key.unlink()
    login(server.url(tmp_path), ssh_config=settings, known_hosts=server.known_hosts)


def test_a_certificate_for_another_user_does_not_let_in(server, tmp_path):
    key = make_key(tmp_path / "key")
    server.sign_user_key(key, principals=["somebody-else"])
    refusal(server.url(tmp_path), identity_file=key, known_hosts=server.known_hosts)


# An encrypted key: in a process of its own, which has a terminal, or none.

ASK = """
import sys
from pathlib import Path
from tests.backends.test_sftp_login import login
if sys.argv[1] != "-":
    import os
    os.open(sys.argv[1], os.O_RDWR)  # after setsid(2) this becomes the controlling terminal
try:
    login(sys.argv[2], identity_file=Path(sys.argv[3]), known_hosts=Path(sys.argv[4]))
except OSError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def encrypted(server, tmp_path) -> Path:
    key = make_key(tmp_path / "key", passphrase=PASSPHRASE)
    server.sign_user_key(key)
    return key


def asking(server: SshServer, key: Path, terminal: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASK, terminal, server.url(key.parent), str(key), str(server.known_hosts)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_encrypted_key_without_a_terminal(server, encrypted):
    with asking(server, encrypted, "-") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{encrypted}: encrypted" in said
    assert "ssh-add" in said


@pytest.mark.parametrize(("typed", "status"), [(PASSPHRASE, 0), ("wrong", 1)])
def test_an_encrypted_key_at_a_terminal(server, encrypted, typed, status):
    ours, theirs = pty.openpty()
    with asking(server, encrypted, os.ttyname(theirs)) as process:
        asked = b""
        while b"Passphrase for" not in asked:
            asked += os.read(ours, 1000)
        os.write(ours, typed.encode() + b"\n")
        out, said = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == status
    assert ("wrong passphrase" in said) == (status == 1)
    assert typed not in out
    assert PASSPHRASE not in said


# The configuration of ssh.


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ssh_config_says_where_and_how(server, tmp_path, transport):
    (tmp_path / "more").write_text(f"Host far\n  IdentityFile {server.identity_file}\n")
    settings = config(
        tmp_path,
        f"""
        Include {tmp_path}/mo*
        Host fa?
            HostName 127.0.0.1
            Port {server.port}
            User {server.user}
            UserKnownHostsFile "{server.known_hosts}"
        Host *
            User nobody-else
            Port 1
        """,
    )
    login(f"sftp://far{tmp_path}", ssh_config=settings, transport=transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_url_wins_over_ssh_config(server, tmp_path, transport):
    settings = config(tmp_path, "User nobody-else\nPort 1\n")
    login(
        server.url(tmp_path),
        ssh_config=settings,
        identity_file=server.identity_file,
        known_hosts=server.known_hosts,
        transport=transport,
    )


def test_names_with_spaces(server, tmp_path):
    known = tmp_path / "known hosts"
    known.write_text(server.known_hosts.read_text())
    settings = config(tmp_path, f'UserKnownHostsFile "{known}"\n')
    login(server.url(tmp_path), ssh_config=settings, identity_file=server.identity_file)
    (tmp_path / "other").touch()
    settings = config(tmp_path, f'UserKnownHostsFile {tmp_path / "other"} "{known}"\n')
    login(server.url(tmp_path), ssh_config=settings, identity_file=server.identity_file)


def test_a_host_key_alias(server, tmp_path):
    known = tmp_path / "known_hosts"
    known.write_text(server.host_key_line("the-alias") + "\n")
    settings = config(tmp_path, f"HostKeyAlias the-alias\nUserKnownHostsFile {known}\n")
    login(server.url(tmp_path), ssh_config=settings, identity_file=server.identity_file)


def jump_config(server: SshServer, jump: SshServer, tmp_path: Path, way: str) -> Path:
    return config(
        tmp_path,
        f"""
        Host gate
            HostName 127.0.0.1
            Port {jump.port}
            User {jump.user}
            IdentityFile {jump.identity_file}
            UserKnownHostsFile {jump.known_hosts}
        Host inner
            HostName 127.0.0.1
            Port {server.port}
            User {server.user}
            IdentityFile {server.identity_file}
            UserKnownHostsFile {server.known_hosts}
            {way}
        """,
    )


@pytest.fixture(scope="module")
def jump(tmp_path_factory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("jump") / "sshd", sftp="") as running:
        yield running


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_proxy_jump(server, jump, tmp_path, transport):
    login(
        f"sftp://inner{tmp_path}", ssh_config=jump_config(server, jump, tmp_path, "ProxyJump gate"), transport=transport
    )


def test_a_jump_host_that_is_not_known_is_named(server, jump, tmp_path):
    jump_file = jump_config(server, jump, tmp_path, "ProxyJump gate")
    jump_file.write_text(jump_file.read_text().replace(str(jump.known_hosts), str(tmp_path / "none")))
    said = refusal(f"sftp://inner{tmp_path}", ssh_config=jump_file)
    assert f"127.0.0.1:{jump.port}" in said
    assert "not known" in said


def test_jumps_in_a_circle_end(tmp_path):
    settings = config(tmp_path, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    assert "ProxyJump" in refusal(f"sftp://a{tmp_path}", ssh_config=settings)


def test_a_proxy_command_is_for_ssh(server, jump, tmp_path):
    arguments = " ".join(jump.ssh_arguments())
    way = f"ProxyCommand {required_program('ssh')} {arguments} -W %h:%p {jump.user}@127.0.0.1"
    settings = jump_config(server, jump, tmp_path, way)
    assert 'transport = "ssh"' in refusal(f"sftp://inner{tmp_path}", ssh_config=settings)
    login(f"sftp://inner{tmp_path}", ssh_config=settings, transport="ssh")


@pytest.mark.parametrize(
    "text", ["Host\nthis is = no; configuration\n???\n", "Match\n", 'Host "a\n', 'Match host "a\n']
)
def test_a_damaged_configuration_is_named(tmp_path, text):
    settings = config(tmp_path, text)
    assert str(settings) in refusal(f"sftp://host{tmp_path}", ssh_config=settings)


@pytest.mark.parametrize(
    "text", ["Port x", "Port 0", "Port 70000", "ProxyJump host:x", "ProxyJump :22", 'CertificateFile "x', 'Include "x']
)
def test_a_wrong_value_in_the_configuration_is_named(tmp_path, text):
    assert "ssh_config" in refusal(f"sftp://host{tmp_path}", ssh_config=config(tmp_path, text + "\n"))


def test_a_configuration_that_is_missing_is_named(tmp_path):
    assert str(tmp_path / "none") in refusal(f"sftp://host{tmp_path}", ssh_config=tmp_path / "none")


# What cannot be reached, and what is no SFTP server.


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_listens(server, tmp_path, transport):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = refusal(server.url(tmp_path, port=port), UnavailableError, transport=transport)
    assert "refused" in said
    assert str(port) in said


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_name_that_does_not_exist(tmp_path, transport):
    said = refusal(f"sftp://no-such-host.invalid{tmp_path}", UnavailableError, transport=transport)
    assert "no-such-host.invalid" in said
    assert "resolve" in said


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_host_that_says_nothing(server, tmp_path, transport):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        said = refusal(server.url(tmp_path, port=port), UnavailableError, deadline=1.0, transport=transport)
    assert "127.0.0.1" in said


GARBAGE = {
    "nothing more": b"",
    "zeros": bytes(4096),
    "a long packet": b"\xff" * 4096,
    "a key exchange without algorithms": bytes([0, 0, 0, 76, 10, 20]) + bytes(70),
    "no banner": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_talks_nonsense(server, tmp_path, transport, garbage):
    def talk() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall((b"" if garbage == "no banner" else b"SSH-2.0-x\r\n") + GARBAGE[garbage])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        talking = threading.Thread(target=talk)
        talking.start()
        url = server.url(tmp_path, port=listener.getsockname()[1])
        with pytest.raises((UnavailableError, LayerSetupError)):
            login(url, 5.0, transport=transport)
        talking.join()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_without_sftp(jump, tmp_path, transport):
    said = refusal(
        jump.url(tmp_path), identity_file=jump.identity_file, known_hosts=jump.known_hosts, transport=transport
    )
    assert "subsystem" in said.lower()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("root", ["missing", "file"])
def test_the_root_must_be_a_directory(server, tmp_path, transport, root):
    (tmp_path / "file").touch()
    said = refusal(
        server.url(tmp_path / root),
        identity_file=server.identity_file,
        known_hosts=server.known_hosts,
        transport=transport,
    )
    assert str(tmp_path / root) in said


def test_nothing_secret_is_shown(server, encrypted):
    ring = KeyRing(DEADLINE)
    ring._unlocked[encrypted] = PASSPHRASE.encode()
    assert PASSPHRASE not in repr(ring)


def test_a_host_cannot_pass_for_an_option():
    with pytest.raises(ValueError, match="host name"):
        PLUGIN.create(parse_url("sftp://-oProxyCommand=x/"), SftpOptions(), DEADLINE)
