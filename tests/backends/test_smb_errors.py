"""No exception of the libraries is left untranslated, none becomes an absence, and no status is forgotten."""

from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil
import socket

import pytest
import smbprotocol
import spnego
import spnego.exceptions
from smbprotocol import Dialects
from smbprotocol.exceptions import SMBLinkRedirectionError, SMBOSError, SMBResponseException, SMBUnsupportedFeature
from smbprotocol.header import NtStatus, SMB2HeaderResponse

from netoverlay.backend_api import LayerSetupError, NotSupportedError, UnavailableError
from netoverlay_smb.connection_errors import Stage, connection_error, peer_errors
from netoverlay_smb.errors import StatusError, describe, describe_status, status_error
from netoverlay_smb.protocol import ProtocolError
from netoverlay_smb.status import CONNECTION_LOST, ERRNO, NOT_SUPPORTED, Status

SERVER = "user@//host/share"
ABSENT = (errno.ENOENT, errno.ENOTDIR)
DEPRECATED = {"query_info"}
"""Another name of a module, which warns."""
ONLY_EIO = {
    # What is no refusal: an operation that meets one of these has looked at it before.
    Status.SUCCESS,
    Status.PENDING,
    Status.NOTIFY_ENUM_DIR,
    Status.BUFFER_OVERFLOW,
    Status.BUFFER_TOO_SMALL,
    Status.NO_MORE_FILES,
    Status.END_OF_FILE,
    # Of a login or a share, never of a file.
    Status.WRONG_PASSWORD,
    Status.LOGON_FAILURE,
    Status.BAD_NETWORK_NAME,
    Status.BAD_TOKEN_TYPE,
    # Faults of the server, of its disk, or of ours.
    Status.UNSUCCESSFUL,
    Status.INFO_LENGTH_MISMATCH,
    Status.IO_TIMEOUT,
    Status.FILE_RENAMED,
    Status.OPLOCK_NOT_GRANTED,
    Status.INTERNAL_ERROR,
    Status.UNEXPECTED_IO_ERROR,
    Status.IO_DEVICE_ERROR,
    Status.FILE_CLOSED,
}
ARGUMENTS: dict[type[Exception], tuple[object, ...]] = {
    SMBLinkRedirectionError: ("a link leads elsewhere", r"\\host\share\link", r"\\other\share"),
    SMBUnsupportedFeature: (Dialects.SMB_2_1_0, Dialects.SMB_3_0_0, "encryption", True),
}
SAYS_ABSENT = {
    Status.NO_SUCH_FILE,
    Status.OBJECT_NAME_NOT_FOUND,
    Status.OBJECT_PATH_NOT_FOUND,
    Status.OBJECT_PATH_INVALID,
    Status.NOT_A_DIRECTORY,
    Status.DELETE_PENDING,
    Status.FILE_DELETED,
    Status.NOT_FOUND,
}


def exceptions_in(package) -> list[type[Exception]]:
    found: set[type[Exception]] = set()
    for module in pkgutil.iter_modules(package.__path__):
        if module.name in DEPRECATED:
            continue
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        for _, member in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(member, Exception) and member.__module__.startswith(package.__name__):
                found.add(member)
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


def spnego_exceptions() -> list[type[Exception]]:
    return [
        member
        for _, member in inspect.getmembers(spnego.exceptions, inspect.isclass)
        if issubclass(member, Exception) and member.__module__ == spnego.exceptions.__name__
    ]


def response(status: int) -> SMBResponseException:
    header = SMB2HeaderResponse()
    header["status"] = status
    return SMBResponseException(header)


def instance(kind: type[Exception]) -> Exception:
    if issubclass(kind, SMBOSError):
        return kind(NtStatus.STATUS_OBJECT_NAME_NOT_FOUND, "name")
    if issubclass(kind, SMBResponseException):
        header = SMB2HeaderResponse()
        header["status"] = getattr(kind, "_STATUS_CODE", None) or NtStatus.STATUS_OBJECT_NAME_NOT_FOUND
        return kind(header)
    if issubclass(kind, spnego.exceptions.SpnegoError):
        return kind(context_msg="something happened", error_code=1)
    if kind is spnego.exceptions.FeatureMissingError:
        return kind(spnego.NegotiateOptions.wrapping_winrm)
    return kind(*ARGUMENTS.get(kind, ("something happened",)))


def as_the_login_does(error: Exception, stage: Stage) -> OSError:
    with pytest.raises(Exception) as caught, peer_errors():  # noqa: PT011  (whatever it is)
        raise error
    return connection_error(caught.value, SERVER, stage)


KINDS = [*exceptions_in(smbprotocol), *spnego_exceptions()]


def test_there_are_exceptions_to_look_at():
    assert len(exceptions_in(smbprotocol)) >= 20
    assert len(spnego_exceptions()) >= 10


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exception_of_the_libraries_is_translated(kind, stage):
    translated = as_the_login_does(instance(kind), stage)
    assert isinstance(translated, UnavailableError | LayerSetupError)
    assert SERVER in str(translated)
    assert translated.errno
    assert translated.errno not in ABSENT


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory"),
        TimeoutError(),
        BlockingIOError(),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        ProtocolError("nonsense"),
        ValueError("what a parser says of nonsense"),
        IndexError("what another says"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_loss_of_a_connection_is_unavailable(error, stage):
    translated = as_the_login_does(error, stage)
    assert isinstance(translated, UnavailableError)
    assert translated.errno not in ABSENT
    assert SERVER in str(translated)
    assert describe(error)


@pytest.mark.parametrize("error", [UnavailableError("a"), LayerSetupError("b")])
def test_what_is_translated_stays(error):
    assert connection_error(error, SERVER, Stage.LOGIN) is error


def test_a_mistake_of_ours_is_not_taken_for_the_network():
    with pytest.raises(ZeroDivisionError):
        connection_error(ZeroDivisionError(), SERVER, Stage.SHARE)


def known_statuses() -> list[int]:
    theirs = {value for name, value in vars(NtStatus).items() if name.startswith("STATUS_")}
    return sorted(theirs | set(map(int, Status)) | {0xC000_9999, 0xFFFF_FFFF})


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("status", known_statuses(), ids=hex)
def test_no_refusal_of_a_login_or_a_share_is_an_absence(status, stage):
    for error in (response(status), StatusError(status)):
        translated = connection_error(error, SERVER, stage)
        assert isinstance(translated, UnavailableError | LayerSetupError)
        assert translated.errno not in ABSENT
        assert SERVER in str(translated)


@pytest.mark.parametrize(
    ("status", "stage", "kind"),
    [
        (Status.LOGON_FAILURE, Stage.LOGIN, LayerSetupError),
        (Status.ACCESS_DENIED, Stage.LOGIN, LayerSetupError),
        (0xC000_0072, Stage.LOGIN, LayerSetupError),  # the account is disabled
        (Status.ACCESS_DENIED, Stage.SHARE, LayerSetupError),
        (Status.BAD_NETWORK_NAME, Stage.SHARE, LayerSetupError),
        (Status.INSUFF_SERVER_RESOURCES, Stage.LOGIN, UnavailableError),
        (Status.USER_SESSION_DELETED, Stage.SHARE, UnavailableError),
        (Status.OBJECT_NAME_NOT_FOUND, Stage.SHARE, UnavailableError),
    ],
)
def test_what_somebody_must_change_is_told_from_what_may_pass(status, stage, kind):
    assert type(connection_error(response(status), SERVER, stage)) is kind


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_every_status_means_one_thing(status):
    assert (status in ERRNO) + (status in NOT_SUPPORTED) + (status in CONNECTION_LOST) + (status in ONLY_EIO) == 1


@pytest.mark.parametrize("status", known_statuses(), ids=hex)
def test_every_status_of_a_file_is_translated(status):
    translated = status_error(StatusError(status), "a/b", "stat")
    assert isinstance(translated, OSError)
    assert translated.errno
    assert isinstance(translated, NotSupportedError) == (status in NOT_SUPPORTED)
    assert isinstance(translated, UnavailableError) == (status in CONNECTION_LOST)
    if not isinstance(translated, NotSupportedError | UnavailableError):
        assert translated.filename == "a/b"
        assert translated.errno == ERRNO.get(status, errno.EIO)
    assert (translated.errno in ABSENT) == (status in SAYS_ABSENT)


def test_the_kind_of_a_refusal_is_pythons_own():
    """As os_error() makes it: whoever catches FileNotFoundError gets it."""
    assert isinstance(status_error(StatusError(Status.OBJECT_NAME_NOT_FOUND), "a", "stat"), FileNotFoundError)
    assert isinstance(status_error(StatusError(Status.OBJECT_NAME_COLLISION), "a", "mkdir"), FileExistsError)
    assert isinstance(status_error(StatusError(Status.ACCESS_DENIED), "a", "open"), PermissionError)


def test_a_status_has_its_name_in_messages():
    assert describe_status(Status.ACCESS_DENIED) == "STATUS_ACCESS_DENIED"
    assert describe_status(0xC000_9999) == "status 0xc0009999"
    assert str(StatusError(0xC000_9999)) in str(status_error(StatusError(0xC000_9999), "a", "stat"))
