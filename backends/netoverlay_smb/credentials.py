"""Who logs in, and with what: a password from where the profile says that it is, or a Kerberos ticket."""

from __future__ import annotations

import getpass
import importlib
import os
import re
import shlex
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar

from netoverlay.backend_api import LayerSetupError, LayerUrl, UnavailableError
from netoverlay_smb.options import PASSWORD_KEYS, SmbOptions

T = TypeVar("T")

_MAX_FILE_BYTES = 1 << 16
_MAX_SAID = 200
"""How much of what a command or a library said goes into a message."""
_FILE_LINE = re.compile(r"\s*(user(?:name)?|pass(?:word)?|dom(?:ain)?|workgroup)\s*=\s*(.*)", re.IGNORECASE)
"""A line of a credentials file. Like smbclient, and unlike mount.cifs, without the spaces before the value."""
_KERBEROS_OID = "1.2.840.113554.1.2.2"
_GSS_NO_CREDENTIALS = 7 << 16
_GSS_CREDENTIALS_EXPIRED = 11 << 16
_KRB5_UNKNOWN_SERVER = -1765328377
_KRB5_EXPIRED = -1765328352
_KRB5_UNREACHABLE = -1765328228
_KRB5_CANNOT_RESOLVE = -1765328164


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a session is set up with."""

    user: str | None
    """None only with Kerberos: whoever the credential cache has a ticket of."""
    domain: str | None
    """With Kerberos the realm."""
    password: str | None = field(repr=False)
    """None only with Kerberos."""
    protocol: Literal["ntlm", "kerberos"]

    @property
    def principal(self) -> str | None:
        """The user as smbprotocol's Session takes it; None: of the default ticket."""
        if self.user is None or self.domain is None:
            return self.user
        return f"{self.user}@{self.domain}" if self.protocol == "kerberos" else f"{self.domain}\\{self.user}"

    def __str__(self) -> str:
        return self.principal or "who has the Kerberos ticket"


def resolve(url: LayerUrl, options: SmbOptions, deadline: float) -> Credentials:
    """Find out who logs in at `url`, within `deadline` seconds.

    LayerSetupError if there is no password, or no ticket for the server; UnavailableError if no KDC answers.
    """
    domain, user = _split(url.user)
    if user == "":
        raise LayerSetupError(
            f"{url}: a login without a name is not possible, for a session of nobody cannot be signed: "
            "write smb://[DOMAIN;]USER@HOST/SHARE"
        )
    if options.auth == "kerberos":
        credentials = Credentials(user, domain, None, "kerberos")
        _fetch_ticket(url, credentials.principal, deadline)
        return credentials
    if options.password_file is not None:
        in_file = _read_file(options.password_file)
        domain = _same(options.password_file, "domain", domain, in_file.domain)
        user = _same(options.password_file, "user", user, in_file.user) or _local_user(url)
        password, where = in_file.password, str(options.password_file)
    else:
        user = user or _local_user(url)
        password, where = _password(url, options, f"{domain};{user}" if domain else user, deadline)
    if not password:
        raise LayerSetupError(
            f"{where}: the password is empty, and a session of a guest cannot be signed: give {user} a password"
        )
    return Credentials(user, domain, password, "ntlm")


def _split(name: str | None) -> tuple[str | None, str | None]:
    r"""DOMAIN;USER of urls, or DOMAIN\USER of Windows, as domain and user."""
    if name is None:
        return None, None
    domain, separator, user = name.partition(";" if ";" in name else "\\")
    return (domain or None, user) if separator else (None, name)


def _local_user(url: LayerUrl) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise LayerSetupError(
            f"{url}: this machine has no name for the user {os.getuid()}: write smb://[DOMAIN;]USER@HOST/SHARE"
        ) from None


def _same(file: Path, what: str, in_url: str | None, in_file: str | None) -> str | None:
    """The one that is given. Both, and different: the password may be another user's, who would be locked out."""
    if in_url is not None and in_file is not None and in_url.casefold() != in_file.casefold():
        raise LayerSetupError(
            f"{file} is for the {what} {in_file}, and the url names the {what} {in_url}: correct one of them"
        )
    return in_url if in_url is not None else in_file


def _password(url: LayerUrl, options: SmbOptions, account: str, deadline: float) -> tuple[str, str]:
    """The password of `account` (as a url has it), and what to call the place that it is from."""
    if options.password_env is not None:
        return _from_environment(options.password_env), f"the environment variable {options.password_env}"
    if options.password_command:
        return _from_command(options.password_command, deadline), "password_command"
    if options.keyring:
        return _from_keyring(str(LayerUrl(url.scheme, "", host=url.host)), account, deadline), "the keyring"
    remedy = f'write one of {", ".join(PASSWORD_KEYS)}, or auth = "kerberos"'
    if account.casefold() == "guest":
        raise LayerSetupError(f"{url}: a session of a guest cannot be signed: name a user who has a password, {remedy}")
    raise LayerSetupError(f"{url}: the profile does not say where the password of {account} is: {remedy}")


# Files.


@dataclass(frozen=True, slots=True)
class _FileContent:
    password: str = field(repr=False)
    user: str | None = None
    domain: str | None = None


def _read_file(file: Path) -> _FileContent:
    try:
        # Without waiting for a writer, if it is a FIFO; what it is gets looked at once it cannot change any more.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise LayerSetupError(f"{file}: cannot be read: {error.strerror}: correct password_file or its mode") from error
    try:
        _check_owner(file, os.fstat(descriptor))
        with os.fdopen(os.dup(descriptor), "rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        if isinstance(error, LayerSetupError):
            raise
        raise LayerSetupError(f"{file}: cannot be read: {error.strerror}: write the password again") from error
    finally:
        os.close(descriptor)
    if len(content) > _MAX_FILE_BYTES:
        raise LayerSetupError(f"{file}: larger than {_MAX_FILE_BYTES} bytes, which is no password: correct it")
    return _parse(file, _text(content, str(file)))


def _check_owner(file: Path, found: os.stat_result) -> None:
    """As ssh demands of private keys."""
    if not stat.S_ISREG(found.st_mode):
        raise LayerSetupError(f"{file}: not a regular file: write the password into a file, or use password_command")
    quoted = shlex.quote(str(file))
    if found.st_uid not in (os.geteuid(), 0):
        raise LayerSetupError(
            f"{file}: belongs to the user {found.st_uid}, who may change it: chown {os.geteuid()} {quoted}"
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise LayerSetupError(f"{file}: others may read or change it (mode {mode:04o}): chmod 600 {quoted}")


def _parse(file: Path, text: str) -> _FileContent:
    lines = [found for line in text.split("\n") if (found := _FILE_LINE.fullmatch(line.removesuffix("\r")))]
    if not lines:
        return _FileContent(_first_line(text))
    values = {found[1][:3].lower(): found[2] for found in lines}  # a later line wins, as in their readers
    if "pas" not in values:
        raise LayerSetupError(f"{file}: has no line `password = `: add one")
    domain, user = _split(values.get("use", "").strip() or None)
    return _FileContent(values["pas"], user, values.get("dom", values.get("wor", "")).strip() or domain)


def _text(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None  # its error would show the bytes, so it must not be the cause either
    if text is None:
        raise LayerSetupError(f"{where}: what it holds is not UTF-8: write the password in UTF-8")
    return text


def _first_line(text: str) -> str:
    return text.partition("\n")[0].removesuffix("\r")


# The environment, a command, the keyring.


def _from_environment(name: str) -> str:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise LayerSetupError(
            f"the environment variable {name}, which password_env names, is not set: export it before mounting"
        )
    return _text(value, f"the environment variable {name}")


def _from_command(arguments: tuple[str, ...], deadline: float) -> str:
    program = os.path.expanduser(arguments[0])  # its arguments may hold anything, so messages have the program only
    try:
        done = subprocess.run(
            [program, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline,
            check=False,
        )
    except subprocess.TimeoutExpired:
        failure = f"gave no password within {deadline:g} s: correct it, or unlock what it waits for"
    except OSError as error:
        failure = f"cannot be run: {error.strerror}: correct its name, or its mode"
    else:
        if done.returncode == 0:
            return _first_line(_text(done.stdout, f"password_command: the output of {program}"))
        said = _last_line(done.stderr)
        failure = f"failed with {_status(done.returncode)}{f' ({said})' if said else ''}: correct it"
    # Outside of the handlers, so that no exception with the arguments or the output is in its chain.
    raise LayerSetupError(f"password_command: {program} {failure}")


def _status(code: int) -> str:
    return f"status {code}" if code >= 0 else f"signal {-code}"


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", errors="replace").strip().splitlines()
    return "".join(each for each in lines[-1] if each.isprintable())[:_MAX_SAID] if lines else ""


def _from_keyring(service: str, account: str, deadline: float) -> str:
    library = _optional("keyring", "keyring = true", "keyring")
    try:
        # A keyring that is locked asks the user, in a window that may be on nobody's screen.
        password: str | None = _within(deadline, lambda: library.get_password(service, account))
    except TimeoutError:
        raise LayerSetupError(
            f"the keyring did not answer within {deadline:g} s: unlock it, then mount again"
        ) from None
    except Exception as error:
        said = _last_line(str(error).encode(errors="replace")) or type(error).__name__
        raise LayerSetupError(
            f"the keyring cannot be asked for a password ({said}): unlock it, or use password_file or password_command"
        ) from error
    if password is None:
        remedy = f"keyring set {service} {shlex.quote(account)}"
        raise LayerSetupError(f"the keyring has no password of {account} for {service}: store it: {remedy}")
    return password


def _optional(module: str, key: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LayerSetupError(
            f"{key} needs the Python package {module}, which cannot be imported ({error}): "
            f"pip install 'netoverlay[{extra}]'"
        ) from error


def _within(deadline: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises; TimeoutError after `deadline` seconds, with the call left to itself."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller
            errors.append(error)

    worker = threading.Thread(target=run, name="netoverlay-credentials", daemon=True)
    worker.start()
    worker.join(deadline)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


# Kerberos.


def _fetch_ticket(url: LayerUrl, principal: str | None, deadline: float) -> None:
    """Put a ticket for the server into the credential cache, where the session then finds it.

    The session itself would also get one, but without a limit on the time (a KDC that is silent takes MIT's library
    half a minute, and each further one as long), and with an error that names no remedy.
    """
    gssapi = _optional("gssapi", 'auth = "kerberos"', "kerberos")
    _optional("krb5", 'auth = "kerberos"', "kerberos")
    try:
        _within(deadline, lambda: _ask_for_ticket(gssapi, url, principal))
    except TimeoutError:
        raise UnavailableError(f"{url.host}: Kerberos gave no ticket for it within {deadline:g} s") from None


def _ask_for_ticket(gssapi: ModuleType, url: LayerUrl, principal: str | None) -> None:
    mechanism = gssapi.OID.from_int_seq(_KERBEROS_OID)
    try:
        name = None if principal is None else gssapi.Name(principal, gssapi.NameType.user)
        context = gssapi.SecurityContext(
            name=gssapi.Name(f"cifs@{url.host}", gssapi.NameType.hostbased_service),
            # Without a name it is left to the library, which may know which of several tickets is for this server.
            creds=None if name is None else gssapi.Credentials(name=name, usage="initiate", mechs=[mechanism]),
            mech=mechanism,
            usage="initiate",
        )
        context.step()
    except gssapi.exceptions.GSSError as error:
        # Only this thread can be told what names the code is about.
        said = " ".join(error.get_all_statuses(error.min_code, False)) or str(error)
        raise _kerberos_error(error.maj_code, error.min_code, said, url, principal) from error


def _kerberos_error(major: int, minor: int, said: str, url: LayerUrl, principal: str | None) -> OSError:
    code = minor - (1 << 32) if minor >= 1 << 31 else minor  # of krb5.h, where they are negative
    if code in (_KRB5_UNREACHABLE, _KRB5_CANNOT_RESOLVE):
        return UnavailableError(f"{url.host}: Kerberos gave no ticket for it: {said}")
    if major in (_GSS_NO_CREDENTIALS, _GSS_CREDENTIALS_EXPIRED) or code == _KRB5_EXPIRED:
        kinit = f"kinit {shlex.quote(principal)}" if principal else "kinit"
        return LayerSetupError(f"{url}: there is no valid Kerberos ticket ({said}): get one: {kinit}")
    if code == _KRB5_UNKNOWN_SERVER:
        remedy = "write the name that the realm has for it, and no address"
        return LayerSetupError(f"{url}: Kerberos knows no server of this name ({said}): {remedy}")
    return LayerSetupError(f"{url}: Kerberos gave no ticket for the server ({said}): correct krb5.conf, or kinit again")
