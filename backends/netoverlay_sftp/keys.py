"""The keys that a login may be tried with, in ssh's order: from the agent, from files, with their certificates."""

from __future__ import annotations

import base64
import binascii
import getpass
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    load_ssh_public_identity,
)
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

from netoverlay_sftp.ssh_config import HostSettings

_PRIVATE_KEY_MAGIC = b"openssh-key-v1\0"
_CERTIFICATE_SUFFIX = "-cert.pub"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key to try, and how to call it in a message. The key's own repr shows its fingerprint only."""

    key: paramiko.PKey
    description: str


class SocketAgent(AgentSSH):
    """An ssh-agent at a socket of our choice; paramiko.Agent knows $SSH_AUTH_SOCK only."""

    def __init__(self, path: str, deadline: float) -> None:
        """OSError or SSHException if nothing sensible answers there within `deadline` seconds."""
        super().__init__()
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(deadline)
            connected.connect(path)
            self._connect(connected)  # type: ignore[attr-defined]  # missing in types-paramiko
        except BaseException:
            connected.close()
            raise

    def close(self) -> None:
        """Leave the agent."""
        self._close()  # type: ignore[attr-defined]  # missing in types-paramiko


@dataclass(slots=True)
class KeyRing:
    """Finds the candidates for a host. Keys whose passphrase was asked for stay, so that it is asked for once."""

    deadline: float
    _unlocked: dict[Path, bytes] = field(default_factory=dict, repr=False)

    @property
    def asked_user(self) -> bool:
        """Whether somebody had to be asked for a passphrase."""
        return bool(self._unlocked)

    def candidates(self, settings: HostSettings, agent: SocketAgent | None, notes: list[str]) -> Iterator[Candidate]:
        """In ssh's order: the agent's keys that the settings name, its others, then files. `notes` tells what was
        left out, and why."""
        named = {blob: path for path in settings.identity_files if (blob := _public_blob(path)) is not None}
        held = {bytes(key.asbytes()): key for key in agent.get_keys()} if agent is not None else {}
        in_order = [blob for blob in named if blob in held]
        if not settings.identities_only:
            in_order += [blob for blob in held if blob not in named]
        for blob in in_order:
            yield from _with_certificates(held[blob], f"agent key {_name(held[blob])}", settings, named.get(blob))
        for path in settings.identity_files:
            if _public_blob(path) not in held:
                yield from self._from_file(path, settings, notes)

    def _from_file(self, path: Path, settings: HostSettings, notes: list[str]) -> Iterator[Candidate]:
        if not path.exists():
            if settings.explicit_identities:
                notes.append(f"{path} does not exist")
            return
        try:
            key = self._load(path)
        except _PassphraseError as error:
            notes.append(f"{path}: {error}")
        except (OSError, ValueError, paramiko.SSHException, UnknownKeyType, UnsupportedAlgorithm) as error:
            reason = (
                error.strerror
                if isinstance(error, OSError)
                else 'no private key that can be used here (FIDO keys need transport = "ssh")'
            )
            notes.append(f"{path}: {reason}")
        else:
            key.public_blob = None  # from_path() may have found a certificate; those are tried first, below
            yield from _with_certificates(key, str(path), settings, path)

    def _load(self, path: Path) -> paramiko.PKey:
        try:
            return _read_key(path, self._unlocked.get(path))
        except (TypeError, paramiko.PasswordRequiredException):  # how cryptography and paramiko say "encrypted"
            passphrase = _ask_passphrase(path)
        try:
            key = _read_key(path, passphrase)
        except (ValueError, paramiko.SSHException):
            raise _PassphraseError("wrong passphrase") from None
        self._unlocked[path] = passphrase
        return key


class _PassphraseError(Exception):
    """An encrypted key stays locked."""


def _read_key(path: Path, passphrase: bytes | None) -> paramiko.PKey:
    # It hands the passphrase on to cryptography, which takes bytes only, whatever the annotation says.
    return paramiko.PKey.from_path(path, passphrase)  # type: ignore[arg-type]  # see above


def _ask_passphrase(path: Path) -> bytes:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        raise _PassphraseError(
            "encrypted, and there is no terminal to ask for its passphrase: put it into an agent (ssh-add)"
        ) from None
    os.close(terminal)
    return getpass.getpass(f"Passphrase for {path}: ").encode()


def _name(key: paramiko.PKey) -> str:
    comment = getattr(key, "comment", "")
    return f"{key.get_name()} {key.fingerprint}{f' ({comment})' if comment else ''}"


def _with_certificates(
    key: paramiko.PKey, description: str, settings: HostSettings, path: Path | None
) -> Iterator[Candidate]:
    """The key with each certificate that is for it, then the key alone."""
    files = [*settings.certificate_files]
    if path is not None:
        files.append(Path(f"{path}{_CERTIFICATE_SUFFIX}"))
    for file in files:
        if _certified_blob(file) == key.asbytes():
            key.load_certificate(str(file))
            yield Candidate(key, f"{description} with {file}")
    key.public_blob = None
    yield Candidate(key, description)


def _certified_blob(file: Path) -> bytes | None:
    """The public key that a certificate is for; None if there is no such certificate."""
    try:
        identity = load_ssh_public_identity(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(identity, SSHCertificate):
        return None
    return base64.b64decode(identity.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


def _public_blob(path: Path) -> bytes | None:
    """The public key of a key file, without its passphrase: from the .pub beside it, or from OpenSSH's own format."""
    try:
        return base64.b64decode(Path(f"{path}.pub").read_bytes().split()[1])
    except (OSError, IndexError, binascii.Error):
        return _public_part(path)


def _public_part(path: Path) -> bytes | None:
    """PROTOCOL.key of OpenSSH: magic, three strings, a count, then the public key in clear."""
    try:
        lines = path.read_bytes().split(b"\n")
        body = base64.b64decode(b"".join(line for line in lines if not line.startswith(b"-----")))
        if not body.startswith(_PRIVATE_KEY_MAGIC):
            return None
        offset = len(_PRIVATE_KEY_MAGIC)
        for _ in range(3):
            offset += 4 + struct.unpack_from(">I", body, offset)[0]
        (length,) = struct.unpack_from(">I", body, offset + 4)
        return body[offset + 8 : offset + 8 + length]
    except (OSError, struct.error, binascii.Error):
        return None
