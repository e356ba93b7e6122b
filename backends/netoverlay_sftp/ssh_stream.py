"""transport = "ssh": OpenSSH's own client logs in and encrypts; we speak to its standard streams through a socket.

The first process is a master (ssh_config(5), ControlMaster) for the further channels, so that a connection with several
logs in once. It runs without a terminal: whatever would ask a question fails instead, and says so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from select import POLLIN, poll

from netoverlay.backend_api import LayerSetupError, LayerUrl, Readable, UnavailableError
from netoverlay.backend_api.leadership import TICK_SECONDS, receive_into
from netoverlay_sftp.errors import describe
from netoverlay_sftp.options import SftpOptions
from netoverlay_sftp.streams import ByteStream, Liveness, SshConnection, set_timeout

_RECEIVE_BYTES = 1 << 14
"""For replies without data, of which many fit; data goes straight to its place."""
_SOCKET_BUFFER_BYTES = 1 << 20
_MESSAGE_BYTES = 4096
_ALIVE_COUNT = 2
_FAST_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""In front of the others: with AES in hardware twice as fast as ssh's first choice, chacha20-poly1305."""

_UNAVAILABLE_MESSAGES = (
    "could not resolve hostname",
    "connection refused",
    "connection timed out",
    "connection closed",
    "connection reset",
    "no route to host",
    "network is unreachable",
    "operation timed out",
    "timeout, server",
    "broken pipe",
)
"""What ssh says where a retry makes sense."""


class OpenSshStream(ByteStream):
    """The standard input and output of an ssh process that runs the SFTP subsystem."""

    def __init__(
        self,
        liveness: Liveness,
        connected: socket.socket,
        process: subprocess.Popen[bytes],
        connection: OpenSshConnection,
    ) -> None:
        super().__init__(liveness, connection.server)
        self._socket = connected
        self._process = process
        self._connection = connection
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._poll = poll()
        self._poll.register(connected, POLLIN)

    def receive(self, timeout: float) -> memoryview:
        return self._buffer[: self.receive_into(self._buffer, timeout)]

    def receive_into(self, target: memoryview, timeout: float) -> int:
        count = receive_into(self._socket, self._poll, target, timeout)
        self.liveness.heard()
        return count

    def send(self, parts: Sequence[Readable]) -> None:
        rest: list[memoryview] = [memoryview(part) for part in parts]
        while rest:
            try:
                count = self._socket.sendmsg(rest)
            except BlockingIOError:
                raise TimeoutError from None
            while rest and count >= len(rest[0]):
                count -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][count:]

    def probe(self) -> None:
        """Not needed: ssh asks by itself (ServerAliveInterval), and ends when it hears nothing."""

    def close(self) -> None:
        _shut_down(self._socket)
        self._process.kill()

    def abort(self) -> None:
        self._connection.abort()


class OpenSshConnection(SshConnection):
    """The processes of one connection: the master, whose channel is the first stream, and one more a stream."""

    def __init__(self, url: LayerUrl, options: SftpOptions, deadline: float) -> None:
        """LayerSetupError if there is no ssh program. Connects with the first stream."""
        program = shutil.which("ssh")
        if program is None:
            raise LayerSetupError('transport = "ssh" needs the program ssh: apt-get install openssh-client')
        self._deadline = deadline
        self._liveness = Liveness()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._aborted = False
        self.server = f"{url.user or ''}{'@' if url.user else ''}{url.host}"
        # Short, since the path of a socket has 108 bytes at most; private, since it gives access to the login.
        self._directory = tempfile.mkdtemp(prefix="netoverlay-")
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close())
        self._command = [program, *self._arguments(url, options, deadline)]

    def _arguments(self, url: LayerUrl, options: SftpOptions, deadline: float) -> list[str]:
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": max(1, int(deadline)),
            "ServerAliveInterval": max(1, int(deadline / (_ALIVE_COUNT + 1))),
            "ServerAliveCountMax": _ALIVE_COUNT,
            "Ciphers": _FAST_CIPHERS,
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "RequestTTY": "no",
            "ControlPath": os.path.join(self._directory, "s"),
            "ControlPersist": "no",
        }
        if options.identity_file is not None:
            settings |= {"IdentityFile": _quoted(options.identity_file), "IdentitiesOnly": "yes"}
        if options.known_hosts is not None:
            settings |= {"UserKnownHostsFile": _quoted(options.known_hosts)}
        arguments = ["-F", str(options.ssh_config)] if options.ssh_config is not None else []
        arguments += ["-l", url.user] if url.user is not None else []
        arguments += ["-p", str(url.port)] if url.port is not None else []
        arguments += [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return [*arguments, "-s", "--", url.host or "", "sftp"]

    @property
    def lost(self) -> bool:
        return self._aborted or self._processes[0].poll() is not None

    def open_stream(self) -> ByteStream:
        role = "no" if self._processes else "yes"
        command = [self._command[0], "-o", f"ControlMaster={role}", *self._command[1:]]
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        set_timeout(ours, socket.SO_RCVTIMEO, TICK_SECONDS)
        set_timeout(ours, socket.SO_SNDTIMEO, self._deadline)
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._messages,
                start_new_session=True,  # an interrupt typed at the terminal is for us alone
            )
        self._processes.append(process)
        self._sockets.append(ours)
        if self._aborted:
            self.abort()
        return OpenSshStream(self._liveness, ours, process, self)

    def refusal(self, error: Exception) -> OSError:
        self._processes[-1].kill()
        self._processes[-1].wait()
        said = self._last_message()
        message = f"{self.server}: ssh says: {said}" if said else f"{self.server}: {describe(error)}"
        if not said or any(phrase in said.lower() for phrase in _UNAVAILABLE_MESSAGES):
            return UnavailableError(message)
        return LayerSetupError(message)

    def _last_message(self) -> str:
        end = self._messages.seek(0, os.SEEK_END)
        self._messages.seek(max(0, end - _MESSAGE_BYTES))
        lines = self._messages.read().decode("utf-8", "replace").split("\n")
        return " ".join(line.strip() for line in lines if line.strip() and not set(line.strip()) <= {"@"})

    def abort(self) -> None:
        self._aborted = True
        for connected in list(self._sockets):
            _shut_down(connected)
        for process in list(self._processes):
            process.kill()

    def close(self) -> None:
        self.abort()
        for process in self._processes:
            process.wait()
        for connected in self._sockets:
            connected.close()
        self._messages.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):  # the process may have closed its end already
        connected.shutdown(socket.SHUT_RDWR)


def _quoted(path: os.PathLike[str]) -> str:
    """For ssh_config(5): in quotes for spaces, with what would be a token kept as it is."""
    return '"' + os.fspath(path).replace("%", "%%") + '"'
