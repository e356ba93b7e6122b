"""Is this the server that it should be? The files known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), strictly."""

from __future__ import annotations

import base64
import binascii
import enum
import fnmatch
import hashlib
import hmac
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from netoverlay.backend_api import LayerSetupError
from netoverlay_sftp.ssh_config import DEFAULT_PORT, HostSettings

_HASHED = "|1|"
_RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")


class Marker(enum.Enum):
    """The optional first field of a line."""

    NONE = ""
    REVOKED = "@revoked"
    AUTHORITY = "@cert-authority"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line that is about the host."""

    marker: Marker
    kind: str
    blob: bytes
    file: Path
    line: int


def known_name(settings: HostSettings) -> str:
    """The name of a host in known_hosts: HOST, or [HOST]:PORT if the port is another than ssh's."""
    if settings.host_key_alias is not None:
        return settings.host_key_alias
    name = settings.host_name.lower()
    return name if settings.port == DEFAULT_PORT else f"[{name}]:{settings.port}"


def _matches_hash(name: str, pattern: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern[len(_HASHED) :].split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _matches(name: str, patterns: str) -> bool:
    """Whether a line's first field means `name`: patterns with * and ?, of which one with ! excludes."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith(_HASHED):
            found = found or _matches_hash(name, pattern)
        elif fnmatch.fnmatchcase(name.lower(), _glob(pattern.removeprefix("!").lower())):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _glob(pattern: str) -> str:
    """For fnmatch, to which, unlike here, brackets mean something: [HOST]:PORT."""
    return pattern.replace("[", "[[]")


def _keys_of(file: Path, name: str) -> Iterator[KnownKey]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise LayerSetupError(f"{file}: {error.strerror}: the host's key cannot be checked") from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = Marker(fields.pop(0)) if fields[0] in (Marker.REVOKED.value, Marker.AUTHORITY.value) else Marker.NONE
        if len(fields) < 3 or not _matches(name, fields[0]):
            continue
        try:
            blob = base64.b64decode(fields[2], validate=True)
        except binascii.Error:
            continue  # as ssh does: a damaged line knows no key
        yield KnownKey(marker, fields[1], blob, file, number)


def known_keys(settings: HostSettings) -> list[KnownKey]:
    """What the files of `settings` say of its host."""
    name = known_name(settings)
    return [key for file in settings.known_hosts for key in _keys_of(file, name)]


def preferred_algorithms(known: Iterable[KnownKey], available: Sequence[str]) -> tuple[str, ...]:
    """`available` with those of the known keys first, so that the server shows a key that can be checked."""
    kinds = {key.kind for key in known if key.marker is Marker.NONE}
    wanted = {algorithm for kind in kinds for algorithm in (_RSA_ALGORITHMS if kind == "ssh-rsa" else (kind,))}
    return tuple(sorted(available, key=lambda algorithm: algorithm not in wanted))


def check_host_key(settings: HostSettings, known: Sequence[KnownKey], shown: paramiko.PKey) -> None:
    """LayerSetupError, with the remedy, unless `shown` is known and not revoked."""
    name = known_name(settings)
    blob = shown.asbytes()
    print_name = f"{shown.get_name()} {shown.fingerprint}"
    for key in known:
        if key.marker is Marker.REVOKED and key.blob == blob:
            raise LayerSetupError(f"{settings}: its host key {print_name} is revoked ({key.file}, line {key.line})")
    plain = [key for key in known if key.marker is Marker.NONE]
    if any(key.blob == blob for key in plain):
        return
    if plain:
        key = next((key for key in plain if key.kind == shown.get_name()), plain[0])
        raise LayerSetupError(
            f"{settings}: its host key has changed: it shows {print_name}, which is not what {key.file} has in line "
            f"{key.line}; somebody may be in between. If the server was set up anew: "
            f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(str(key.file))}, then add the new key"
        )
    if any(key.marker is Marker.AUTHORITY for key in known):
        raise LayerSetupError(
            f"{settings}: its host key is known by a certificate authority only (@cert-authority), which ssh itself "
            'must check: set transport = "ssh"'
        )
    files = " or ".join(map(str, settings.known_hosts)) or "no known_hosts file"
    port = f"-p {settings.port} " if settings.port != DEFAULT_PORT else ""
    remedy = f"ssh-keyscan {port}{settings.host_name} >> {shlex.quote(str(next(iter(settings.known_hosts), '')))}"
    raise LayerSetupError(
        f"{settings}: its host key {print_name} is not known (looked for {name} in {files}). If that is the right key: "
        f"{remedy}"
    )
