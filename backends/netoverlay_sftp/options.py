"""What a profile may say of an SFTP layer, beside what all layers have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class SftpOptions:
    """Keys of a layer with an sftp:// url. What is left out is as for the user's ssh."""

    identity_file: Path | None = None
    """The private key to log in with, and no other; an agent that holds it is asked first."""
    known_hosts: Path | None = None
    """The host keys to trust, in the place of the files that ssh would look in. Unknown keys are always refused."""
    ssh_config: Path | None = None
    """In the place of ~/.ssh/config and /etc/ssh/ssh_config, as with `ssh -F`."""
    transport: Literal["paramiko", "ssh"] = "paramiko"
    """Who logs in and encrypts: a library in this process, or OpenSSH's client, which also knows ProxyCommand, FIDO
    keys, GSSAPI and host certificates, and uses a core of its own."""
