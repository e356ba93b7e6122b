"""What a profile may say of an SMB layer, beside what all layers have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PASSWORD_KEYS = ("password_file", "password_env", "password_command", "keyring")
"""The options that say where the password is; a layer has one of them at most."""
_MAX_MODE = 0o7777


@dataclass(frozen=True, slots=True)
class SmbOptions:
    """Keys of a layer with an smb:// url."""

    password_file: Path | None = None
    """A file of the user's own (mode 0600) with the password alone on its first line, or with lines `username = `,
    `password = ` and `domain = `, as the credentials files of mount.cifs and smbclient have them."""
    password_env: str | None = None
    """The name of the environment variable that holds the password."""
    password_command: tuple[str, ...] = ()
    """A program and its arguments, run without a shell; the first line of its output is the password."""
    keyring: bool = False
    """Ask the desktop's keyring for the password of the service `smb://HOST` and the user `[DOMAIN;]USER`."""
    auth: Literal["ntlm", "kerberos"] = "ntlm"
    """Log in with a password, or with a Kerberos ticket of the user's credential cache: `sec=krb5` of mount.cifs,
    `--use-kerberos=required` of smbclient."""
    sign: bool = True
    """Sign what is sent and check what comes back, so that nobody between can change it."""
    encrypt: bool = False
    """Demand SMB 3 encryption, `seal` of mount.cifs; a server without it is refused."""
    permissions: Literal["server", "profile"] = "server"
    """Whose word is taken for owner and mode: the server's, as far as it tells them, or that of the profile alone (the
    two options below, and no owner), which saves a request for each entry."""
    file_mode: int = 0o755
    """The mode of the files that the server tells none of."""
    dir_mode: int = 0o755
    """The mode of the directories that the server tells none of."""


def validate(options: SmbOptions) -> None:
    """ValueError, with a sentence for the user, if the options do not fit each other or are out of their range."""
    sources = [key for key in PASSWORD_KEYS if getattr(options, key) not in (None, False, ())]
    if options.auth == "kerberos" and sources:
        raise ValueError(
            f'auth = "kerberos" takes a ticket from the credential cache (kinit) and no password: remove {sources[0]}'
        )
    if len(sources) > 1:
        raise ValueError(f"{' and '.join(sources)} each name a password: keep one of them")
    if options.password_command and not options.password_command[0]:
        raise ValueError('password_command names no program: write ["PROGRAM", "ARGUMENT", ...]')
    if any("\0" in word for word in options.password_command):
        raise ValueError("password_command has a NUL in it, which no program can be given: remove it")
    for key in ("file_mode", "dir_mode"):
        mode = getattr(options, key)
        if not 0 <= mode <= _MAX_MODE:
            raise ValueError(f"{key} is {mode:#o}: write a mode from 0o000 to {_MAX_MODE:#o}")
