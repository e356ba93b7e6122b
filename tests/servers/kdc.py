"""A real Kerberos server (MIT's krb5kdc) on loopback, on a free port, self-contained in a directory of its own.

    with Kdc(tmp_path / "kdc") as kdc:
        kdc.add_service("cifs/localhost")
        kdc.add_user("somebody", "password")
        kdc.kinit("somebody", "password")
        kdc.environment(), kdc.keytab, kdc.samba_settings(), kdc.principal("somebody")

Runs as root or as an ordinary user; nothing outside the directory is read or written. Who takes tickets needs
`environment()`: where the realm is, and where the tickets are kept.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.processes import START_SECONDS, end, free_port, required_program

__all__ = ["REALM", "Kdc"]

REALM = "NETOVERLAY.TEST"
REMEDY = "it is needed by the tests: apt-get install krb5-kdc krb5-admin-server krb5-user"
COMMAND_SECONDS = 30.0
STARTED = "commencing operation"

CLIENT_CONFIG = """\
[libdefaults]
  default_realm = {realm}
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  qualify_shortname = ""
[realms]
  {realm} = {{
    kdc = 127.0.0.1:{port}
  }}
[domain_realm]
  localhost = {realm}
"""
# Names are taken as they are written: no look-up depends on what this machine's resolver says of localhost.

# Without the PAC (a list of a Windows domain's groups) that MIT's KDC adds since 1.20: a standalone Samba refuses a
# ticket that has one.
SERVER_CONFIG = """\
[kdcdefaults]
  kdc_listen = 127.0.0.1:{port}
  kdc_tcp_listen = 127.0.0.1:{port}
[realms]
  {realm} = {{
    database_name = {directory}/principal
    key_stash_file = {directory}/stash
    acl_file = {directory}/kadm5.acl
    disable_pac = true
  }}
[logging]
  kdc = FILE:{log}
"""


class Kdc:
    """One krb5kdc, of the realm `REALM`, and the file with what its users' logins are told to know of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.config = directory / "krb5.conf"
        self.cache = directory / "tickets"
        """The credential cache that kinit() fills."""
        self.keytab = directory / "keytab"
        """The keys of the services that were added."""
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, mode=0o700)
        values = {"realm": REALM, "port": self.port, "directory": directory, "log": self.log}
        self.config.write_text(CLIENT_CONFIG.format(**values))
        (directory / "kdc.conf").write_text(SERVER_CONFIG.format(**values))
        master_key = os.urandom(16).hex()
        self._run("kdb5_util", "create", "-s", "-r", REALM, said=f"{master_key}\n{master_key}\n")
        self.start()

    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to get tickets here. The cache may well be empty."""
        return {"KRB5_CONFIG": str(self.config), "KRB5CCNAME": f"FILE:{self.cache}"}

    def principal(self, name: str) -> str:
        """`name` with the realm."""
        return f"{name}@{REALM}"

    def add_user(self, name: str, password: str) -> None:
        """Somebody who can kinit. The passwords go by standard input, for others see the arguments of a process."""
        self._admin(f'add_principal -pw "{password}" {name}')

    def add_service(self, name: str) -> None:
        """Such as cifs/HOST, with a key of its own in `keytab`."""
        self._admin(f"add_principal -randkey {name}", f"ktadd -k {self.keytab} {name}")

    def kinit(self, user: str, password: str, *, cache: Path | None = None, lifetime: str = "1h") -> None:
        """Log `user` in: the tickets of `cache` (default: the one of environment()) are his from now on."""
        self._run(
            "kinit", "-l", lifetime, "-c", f"FILE:{cache or self.cache}", self.principal(user), said=f"{password}\n"
        )

    def samba_settings(self) -> list[str]:
        """The lines of [global] with which a standalone smbd takes the tickets of the services in `keytab`."""
        return [
            f"realm = {REALM}",
            "kerberos method = dedicated keytab",
            f"dedicated keytab file = FILE:{self.keytab}",
        ]

    def start(self) -> None:
        """Start it, on the port it had before, and wait until it answers."""
        if self._process is not None:
            raise RuntimeError("krb5kdc is running already")
        earlier = self.log.stat().st_size if self.log.exists() else 0
        command = [required_program("krb5kdc", REMEDY), "-n", "-r", REALM]
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment()
            )
        give_up_at = time.monotonic() + START_SECONDS
        while not (self.log.exists() and STARTED in self.log.read_text()[earlier:]):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.stop()
                raise RuntimeError(f"krb5kdc did not start:\n{(self.directory / 'output').read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it. Tickets that were given out stay good."""
        if self._process is None:
            return
        end(self._process.pid)
        self._process.wait()
        self._process = None

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment(), "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf")}

    def _admin(self, *commands: str) -> None:
        """kadmin.local reads them as it would from a terminal, and ends as if all went well whatever happened."""
        said = self._run("kadmin.local", "-r", REALM, said="".join(f"{command}\n" for command in commands))
        if said:
            raise RuntimeError(f"kadmin.local refuses:\n{said}")

    def _run(self, program: str, *arguments: str, said: str) -> str:
        """Run a program of Kerberos, which reads `said`; returns its complaints."""
        done = subprocess.run(
            [required_program(program, REMEDY), *arguments],
            input=said.encode(),
            capture_output=True,
            env=self._environment(),
            timeout=COMMAND_SECONDS,
            check=False,
        )
        complaints = done.stderr.decode(errors="replace")
        if done.returncode:
            raise RuntimeError(f"{program} failed with status {done.returncode}:\n{complaints}")
        return "\n".join(line for line in complaints.splitlines() if not line.startswith("No policy specified"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
