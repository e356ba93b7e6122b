"""What the user's ssh_config(5) says of a host, as far as a login in this process can follow it."""

from __future__ import annotations

import getpass
import glob
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from netoverlay.backend_api import LayerSetupError
from netoverlay_sftp.options import SftpOptions

DEFAULT_PORT = 22
USER_CONFIG = Path("~/.ssh/config")
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_DEFAULT_IDENTITIES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
_DEFAULT_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_DEFAULT_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_MAX_INCLUDE_DEPTH = 16

_OTHER_LOGINS = {"gssapiauthentication": "GSSAPIAuthentication", "pkcs11provider": "PKCS11Provider"}
"""Settings that give further ways to log in, which only OpenSSH itself has. Distributions set some for everybody."""


@dataclass(frozen=True, slots=True)
class JumpHost:
    """One host of ProxyJump: [USER@]HOST[:PORT]."""

    host: str
    user: str | None
    port: int | None


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where and how to log in."""

    alias: str
    """As the url has it."""
    host_name: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    identities_only: bool
    explicit_identities: bool
    """The identity files were asked for, so one that is missing is an error."""
    certificate_files: tuple[Path, ...]
    agent_socket: str | None
    known_hosts: tuple[Path, ...]
    host_key_alias: str | None
    jumps: tuple[JumpHost, ...]
    address_family: str
    other_logins: tuple[str, ...]
    """Settings for ways to log in that are not tried here."""

    def __str__(self) -> str:
        host = f"[{self.host_name}]" if ":" in self.host_name else self.host_name
        return f"{self.user}@{host}:{self.port}"


def _config_lines(path: Path, depth: int = 0) -> Iterator[str]:
    """The lines of `path` with those of its Include files in their place, which paramiko's parser does not do."""
    if depth > _MAX_INCLUDE_DEPTH:
        raise LayerSetupError(f"{path}: Include goes deeper than {_MAX_INCLUDE_DEPTH} files")
    block = "Match all\n"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include":
            yield line if line.endswith("\n") else line + "\n"
            continue
        for included in _included_files(rest, path.parent):
            lines = list(_config_lines(included, depth + 1))
            if block != "Match all\n" and any(_opens_block(each) for each in lines):
                raise LayerSetupError(
                    f'{path}: an Include inside "{block.strip()}" brings Host blocks of its own ({included}), which '
                    'only ssh itself can follow: set transport = "ssh"'
                )
            yield from lines
            yield block


def _opens_block(line: str) -> bool:
    return line.strip().lower().replace("=", " ").split(" ", 1)[0] in ("host", "match")


def _included_files(patterns: str, directory: Path) -> Iterator[Path]:
    for pattern in _words(patterns):
        absolute = os.path.join(directory, os.path.expanduser(pattern))
        yield from (Path(name) for name in sorted(glob.glob(absolute)) if os.path.isfile(name))


def _load(options: SftpOptions) -> paramiko.SSHConfig:
    if options.ssh_config is not None:
        files = [options.ssh_config]
    else:
        files = [path for path in (USER_CONFIG.expanduser(), SYSTEM_CONFIG) if path.is_file()]
    text = ""
    for path in files:
        try:
            text += "Match all\n" + "".join(_config_lines(path))
        except OSError as error:
            if isinstance(error, LayerSetupError):
                raise
            raise LayerSetupError(f"{path}: {error.strerror}: correct ssh_config or the file's mode") from error
    try:
        return paramiko.SSHConfig.from_text(text)
    except (paramiko.ConfigParseError, ValueError) as error:
        raise LayerSetupError(f"{' or '.join(map(str, files))}: {error}") from error


def host_settings(host: str, user: str | None, port: int | None, options: SftpOptions) -> HostSettings:
    """The settings for `host`; `user`, `port` and `options`, where given, win. LayerSetupError if ssh must do it."""
    try:
        found = _load(options).lookup(host)
    except (paramiko.CouldNotCanonicalize, ValueError, KeyError) as error:
        raise LayerSetupError(f"{host}: ssh_config cannot be followed: {error}") from error
    if found.get("proxycommand") not in (None, "none"):
        raise LayerSetupError(
            f'{host}: ssh_config has a ProxyCommand, which only ssh itself runs: set transport = "ssh"'
        )
    identities = [str(options.identity_file)] if options.identity_file is not None else found.get("identityfile")
    known_hosts = (
        [str(options.known_hosts)]
        if options.known_hosts is not None
        else _files(found.get("userknownhostsfile"), _DEFAULT_USER_KNOWN_HOSTS)
        + _files(found.get("globalknownhostsfile"), _DEFAULT_GLOBAL_KNOWN_HOSTS)
    )
    return HostSettings(
        alias=host,
        host_name=found["hostname"],
        port=port or _port(host, found.get("port", str(DEFAULT_PORT))),
        user=user or found.get("user") or getpass.getuser(),
        identity_files=tuple(_paths(list(identities or _DEFAULT_IDENTITIES))),
        identities_only=options.identity_file is not None or found.get("identitiesonly", "no") == "yes",
        explicit_identities=options.identity_file is not None,
        certificate_files=tuple(_paths(_files(found.get("certificatefile"), ()))),
        agent_socket=_agent_socket(found.get("identityagent")),
        known_hosts=tuple(_paths(known_hosts)),
        host_key_alias=found.get("hostkeyalias"),
        jumps=tuple(_jump_hosts(found.get("proxyjump"))),
        address_family=found.get("addressfamily", "any").lower(),
        other_logins=tuple(name for key, name in _OTHER_LOGINS.items() if found.get(key) not in (None, "no", "none")),
    )


def _port(host: str, value: str) -> int:
    if not value.isdigit() or not 0 < int(value) < 1 << 16:
        raise LayerSetupError(f"{host}: ssh_config: Port {value!r} is no number from 1 to 65535")
    return int(value)


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise LayerSetupError(f"ssh_config: {value!r}: {error}") from error


def _files(value: str | None, default: tuple[str, ...]) -> list[str]:
    if value is None:
        return list(default)
    # paramiko's parser takes quotes off, so one name with a space looks like two names without.
    return [value] if os.path.exists(os.path.expanduser(value)) else _words(value)


def _paths(names: Iterable[str]) -> list[Path]:
    return [Path(name).expanduser() for name in names if name != "none"]


def _agent_socket(value: str | None) -> str | None:
    """IdentityAgent of ssh_config: a path, none, SSH_AUTH_SOCK or the $NAME of another variable."""
    if value == "none":
        return None
    if value is None or value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    return os.environ.get(value[1:]) if value.startswith("$") else os.path.expanduser(value)


def _jump_hosts(value: str | None) -> Iterator[JumpHost]:
    for text in (value or "none").split(","):
        if text == "none":
            continue
        user, _, address = text.removeprefix("ssh://").rpartition("@")
        if address.startswith("["):  # [IPv6]:PORT
            host, _, port = address[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = address.partition(":") if address.count(":") == 1 else (address, "", "")
        if not host or (port and not port.isdigit()):
            raise LayerSetupError(f"ssh_config: ProxyJump {text!r} is not [USER@]HOST[:PORT]")
        yield JumpHost(host, user or None, int(port) if port else None)
