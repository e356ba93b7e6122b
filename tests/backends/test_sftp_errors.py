"""No exception of the libraries is left untranslated, and none is translated into an absence."""

from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil
import socket
import subprocess

import paramiko
import pytest

from netoverlay.backend_api import LayerSetupError, NotSupportedError, UnavailableError
from netoverlay_sftp.connection_errors import connection_error
from netoverlay_sftp.errors import StatusError, describe, status_error
from netoverlay_sftp.protocol import ProtocolError, StatusCode

NOT_FOR_US = {
    "_winapi",  # Windows
    "win_openssh",
    "win_pageant",
}
ABSENT = (errno.ENOENT, errno.ENOTDIR)


def paramiko_exceptions() -> list[type[Exception]]:
    found: set[type[Exception]] = set()
    for module in pkgutil.iter_modules(paramiko.__path__):
        if module.name in NOT_FOR_US:
            continue
        loaded = importlib.import_module(f"paramiko.{module.name}")
        for _, member in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(member, Exception) and member.__module__.startswith("paramiko"):
                found.add(member)
    return sorted(found, key=lambda each: each.__name__)


# What their __str__ needs.
ATTRIBUTES = {
    "BadHostKeyException": {"hostname": "host", "key": paramiko.PKey(), "expected_key": paramiko.PKey()},
    "BadAuthenticationType": {"explanation": "why", "allowed_types": ["password"]},
    "PartialAuthentication": {"allowed_types": ["password"]},
    "ChannelException": {"code": 1, "text": "why"},
    "ProxyCommandFailure": {"command": "command", "error": "why"},
    "UnknownKeyType": {"key_type": "kind", "key_bytes": b""},
    "AuthFailure": {"result": "why"},
}


def instance(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = ("something happened",)
    for name, value in ATTRIBUTES.get(kind.__name__, {}).items():
        setattr(error, name, value)
    return error


def test_there_are_exceptions_to_look_at():
    assert len(paramiko_exceptions()) >= 15


@pytest.mark.parametrize("kind", paramiko_exceptions(), ids=lambda kind: kind.__name__)
def test_every_exception_of_paramiko_is_translated(kind):
    translated = connection_error(instance(kind), "user@host:22")
    assert isinstance(translated, UnavailableError | LayerSetupError)
    assert "user@host:22" in str(translated)
    assert translated.errno not in ABSENT


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        TimeoutError(),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        subprocess.TimeoutExpired("ssh", 1),
        ProtocolError("nonsense"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_loss_of_a_connection_is_unavailable(error):
    translated = connection_error(error, "user@host:22")
    assert isinstance(translated, UnavailableError)
    assert translated.errno not in ABSENT
    assert "user@host:22" in str(translated)
    assert describe(error)


@pytest.mark.parametrize("error", [UnavailableError("a"), LayerSetupError("b")])
def test_what_is_translated_stays(error):
    assert connection_error(error, "server") is error


def test_a_mistake_of_ours_is_not_taken_for_the_network():
    with pytest.raises(ZeroDivisionError):
        connection_error(ZeroDivisionError(), "server")


@pytest.mark.parametrize("code", [*range(2, 9), 9, 31, 2**32 - 1])
def test_every_status_is_translated(code):
    translated = status_error(StatusError(code, "Message"), "a/b", "stat")
    assert isinstance(translated, OSError)
    assert translated.errno
    assert (translated.errno == errno.ENOENT) == (code == StatusCode.NO_SUCH_FILE)
    assert isinstance(translated, NotSupportedError) == (code == StatusCode.OP_UNSUPPORTED)
    assert isinstance(translated, UnavailableError) == (code in (StatusCode.NO_CONNECTION, StatusCode.CONNECTION_LOST))


def test_a_name_that_is_too_long_is_called_so():
    error = StatusError(StatusCode.BAD_MESSAGE, "")
    assert status_error(error, "a/" + "b" * 256, "stat").errno == errno.ENAMETOOLONG
    assert status_error(error, "a/" + "b" * 255, "stat").errno == errno.EINVAL
    assert status_error(error, "\udcff" * 256, "stat").errno == errno.ENAMETOOLONG
