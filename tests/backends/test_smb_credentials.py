"""Where the password of an SMB layer is found; and one clear sentence, without any secret, where it is not."""

from __future__ import annotations

import dataclasses
import getpass
import os
import shlex
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import msgspec
import pytest

from netoverlay.backend_api import LayerSetupError, parse_url
from netoverlay_smb.credentials import Credentials, resolve
from netoverlay_smb.options import SmbOptions, validate
from tests.servers.processes import descendants

URL = "smb://bob@nas.example/media/films"
PASSWORD = "correct horse"
DEADLINE = 10.0


def found(url: str = URL, deadline: float = DEADLINE, **options: object) -> Credentials:
    checked = SmbOptions(**options)
    validate(checked)
    return resolve(parse_url(url), checked, deadline)


def refusal(url: str = URL, deadline: float = DEADLINE, **options: object) -> str:
    with pytest.raises(LayerSetupError) as caught:
        found(url, deadline, **options)
    said = str(caught.value)
    assert "\n" not in said
    error: BaseException | None = caught.value
    while error is not None:  # what is logged is the whole chain
        assert PASSWORD not in f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__
    return said


def secret_file(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return secret_file(tmp_path / "password", PASSWORD + "\n")


# The options.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"password_file": Path("/f"), "password_env": "E"}, "password_file and password_env"),
        ({"password_command": ("pass",), "keyring": True}, "password_command and keyring"),
        ({"password_env": "E", "auth": "kerberos"}, "remove password_env"),
        ({"password_env": "", "auth": "kerberos"}, "remove password_env"),
        ({"keyring": True, "auth": "kerberos"}, "remove keyring"),
        ({"password_command": ("",)}, "no program"),
        ({"password_command": ("pass", "a\0b")}, "NUL"),
        ({"file_mode": 0o10000}, "0o7777"),
        ({"dir_mode": -1}, "dir_mode"),
    ],
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(ValueError, match=said) as caught:
        validate(SmbOptions(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"auth": "kerberos", "encrypt": True},
        {"password_command": ("pass", "show", "")},
        {"file_mode": 0, "dir_mode": 0o7777, "permissions": "profile"},
    ],
)
def test_options_that_fit(options):
    validate(SmbOptions(**options))


def test_options_are_what_a_profile_can_hold():
    table = {"password_command": ["pass", "show", "nas"], "file_mode": 0o640, "sign": False}
    options = msgspec.convert(table, SmbOptions)
    assert options == SmbOptions(password_command=("pass", "show", "nas"), file_mode=0o640, sign=False)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"password_command": "pass show nas"}, SmbOptions)


# Who logs in.


@pytest.mark.parametrize(
    ("login", "domain", "user"),
    [
        ("bob@", None, "bob"),
        ("CORP;bob@", "CORP", "bob"),
        ("CORP%3Bbob@", "CORP", "bob"),
        ("CORP%5Cbob@", "CORP", "bob"),
        (";bob@", None, "bob"),
        ("CORP;a%5Cb@", "CORP", "a\\b"),
        ("bob%40corp.example@", None, "bob@corp.example"),
        ("CORP;b%C3%B6b@", "CORP", "b\u00f6b"),
    ],
)
def test_the_user_of_the_url(file, login, domain, user):
    credentials = found(f"smb://{login}nas/media", password_file=file)
    assert (credentials.domain, credentials.user, credentials.protocol) == (domain, user, "ntlm")


def test_without_a_user_it_is_the_local_one(file):
    assert found("smb://nas/media", password_file=file).user == getpass.getuser()


def test_a_local_user_without_a_name(file, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert "4000000000" in refusal("smb://nas/media", password_file=file)


@pytest.mark.parametrize("login", ["@", "CORP;@"])
def test_nobody_cannot_log_in(file, login):
    said = refusal(f"smb://{login}nas/media", password_file=file)
    assert "cannot be signed" in said
    assert "smb://[DOMAIN;]USER@HOST/SHARE" in said


def test_a_guest_cannot_log_in():
    assert "guest cannot be signed" in refusal("smb://guest@nas/media")


def test_a_guest_with_a_password_is_a_user(file):
    assert found("smb://guest@nas/media", password_file=file).password == PASSWORD


def test_without_a_password_all_places_for_one_are_named():
    said = refusal()
    for key in ("password_file", "password_env", "password_command", "keyring", 'auth = "kerberos"'):
        assert key in said
    assert "bob" in said


@pytest.mark.parametrize(
    ("credentials", "principal"),
    [
        (Credentials("bob", None, "p", "ntlm"), "bob"),
        (Credentials("bob", "CORP", "p", "ntlm"), "CORP\\bob"),
        (Credentials("bob@corp.example", None, "p", "ntlm"), "bob@corp.example"),
        (Credentials("bob", None, None, "kerberos"), "bob"),
        (Credentials("bob", "CORP.EXAMPLE", None, "kerberos"), "bob@CORP.EXAMPLE"),
        (Credentials(None, None, None, "kerberos"), None),
        (Credentials(None, "CORP.EXAMPLE", None, "kerberos"), None),
    ],
)
def test_the_principal(credentials, principal):
    assert credentials.principal == principal
    assert principal is None or str(credentials) == principal


def test_credentials_do_not_show_the_password(file):
    credentials = found(password_file=file)
    assert credentials.password == PASSWORD
    assert PASSWORD not in f"{credentials!r} {credentials}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        credentials.password = "another"  # type: ignore[misc]


# A file.


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("secret", "secret"),
        ("secret\n", "secret"),
        ("secret\r\n", "secret"),
        ("secret\n\n", "secret"),
        ("  with spaces  \n", "  with spaces  "),
        ("first\nsecond\n", "first"),
        ("#no comment\n", "#no comment"),
        ("a=b\n", "a=b"),
        ("user: bob\n", "user: bob"),
        ("p\u00e4ssw\u00f6rd\n", "p\u00e4ssw\u00f6rd"),
        ("\ufeffwritten by an editor\n", "written by an editor"),
        ("password = secret\n", "secret"),
        ("password=secret", "secret"),
        ("PASSWORD = secret\r\n", "secret"),
        ("pass=secret\n", "secret"),
        ("password = a = b \n", "a = b "),
        ("# of the NAS\n\n  username = bob\n  password = secret\nunknown = x\n", "secret"),
        ("password = one\npassword = two\n", "two"),
    ],
)
def test_the_password_of_a_file(tmp_path, content, password):
    assert found(password_file=secret_file(tmp_path / "file", content)).password == password


@pytest.mark.parametrize(
    ("content", "domain", "user"),
    [
        ("username = alice\npassword = p\ndomain = CORP\n", "CORP", "alice"),
        ("user=alice\npass=p\ndom=CORP\n", "CORP", "alice"),
        ("user=alice \npass=p\nworkgroup=CORP \n", "CORP", "alice"),
        ("username=CORP\\alice\npassword=p\n", "CORP", "alice"),
        ("username=alice\npassword=p\n", None, "alice"),
        ("username=\npassword=p\ndomain=\n", None, getpass.getuser()),
        ("password=p\n", None, getpass.getuser()),
    ],
)
def test_the_user_of_a_file(tmp_path, content, domain, user):
    credentials = found("smb://nas/media", password_file=secret_file(tmp_path / "file", content))
    assert (credentials.domain, credentials.user) == (domain, user)


def test_the_url_and_the_file_agree(tmp_path):
    file = secret_file(tmp_path / "file", "username = Bob\npassword = p\ndomain = corp\n")
    credentials = found("smb://CORP;bob@nas/media", password_file=file)
    assert (credentials.domain, credentials.user) == ("CORP", "bob")


@pytest.mark.parametrize(
    ("line", "said"), [("username = alice", ("alice", "bob")), ("domain = HOME", ("HOME", "CORP"))]
)
def test_the_file_is_for_somebody_else(tmp_path, line, said):
    file = secret_file(tmp_path / "file", f"password = {PASSWORD}\n{line}\n")
    message = refusal("smb://CORP;bob@nas/media", password_file=file)
    assert all(word in message for word in said)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o777])
def test_a_file_that_others_may_read_or_write(file, mode):
    file.chmod(mode)
    said = refusal(password_file=file)
    assert f"{mode:04o}" in said
    assert f"chmod 600 {file}" in said


def test_the_remedy_for_a_mode_works(tmp_path):
    file = secret_file(tmp_path / "a file; of 'mine'", PASSWORD, mode=0o644)
    said = refusal(password_file=file)
    subprocess.run(shlex.split(said[said.index("chmod") :]), check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert found(password_file=file).password == PASSWORD


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_is_private(file, mode):
    file.chmod(mode)
    assert found(password_file=file).password == PASSWORD


def test_a_link_to_a_file(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert found(password_file=link).password == PASSWORD
    file.chmod(0o644)
    assert "chmod" in refusal(password_file=link)


def test_a_file_of_somebody_else(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    if file.stat().st_uid == 0:
        assert found(password_file=file).password == PASSWORD  # root's is as good as one's own
        os.chown(file, 4712, -1)
    said = refusal(password_file=file)
    assert str(file.stat().st_uid) in said
    assert "chown 4711" in said


def test_a_file_that_is_not_there(tmp_path):
    said = refusal(password_file=tmp_path / "nowhere")
    assert "nowhere" in said
    assert "No such file" in said


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir(mode=0o700)
    else:
        os.mkfifo(path, mode=0o600)
    assert "not a regular file" in refusal(password_file=path)


@pytest.mark.parametrize("content", ["", "\n", "\nsecond\n", "password =\n", "password = \nusername = bob\n"])
def test_an_empty_password(tmp_path, content):
    assert "password is empty" in refusal(password_file=secret_file(tmp_path / "file", content))


def test_a_file_without_its_password(tmp_path):
    file = secret_file(tmp_path / "file", f"{PASSWORD}\nusername = bob\n")
    assert "no line `password = `" in refusal(password_file=file)


def test_a_file_that_is_not_utf8(tmp_path):
    file = secret_file(tmp_path / "file", PASSWORD.encode() + b"\xff\n")
    assert "UTF-8" in refusal(password_file=file)


def test_a_file_that_is_large(tmp_path):
    file = secret_file(tmp_path / "file", PASSWORD * 10_000)
    assert "larger than" in refusal(password_file=file)


def test_no_descriptor_is_left_open(file, tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    found(password_file=file)
    file.chmod(0o644)
    refusal(password_file=file)
    assert set(os.listdir("/proc/self/fd")) == before


# The environment.


def test_a_variable(monkeypatch):
    monkeypatch.setenv("NAS_PASSWORD", f"{PASSWORD} \n")
    assert found(password_env="NAS_PASSWORD").password == f"{PASSWORD} \n"


def test_a_variable_that_is_not_set(monkeypatch):
    monkeypatch.delenv("NAS_PASSWORD", raising=False)
    said = refusal(password_env="NAS_PASSWORD")
    assert "NAS_PASSWORD" in said
    assert "export" in said


def test_a_variable_that_is_empty(monkeypatch):
    monkeypatch.setenv("NAS_PASSWORD", "")
    assert "NAS_PASSWORD: the password is empty" in refusal(password_env="NAS_PASSWORD")


def test_a_variable_that_is_not_utf8(monkeypatch):
    monkeypatch.setenv("NAS_PASSWORD", os.fsdecode(PASSWORD.encode() + b"\xff"))
    assert "UTF-8" in refusal(password_env="NAS_PASSWORD")


# A command.


def shell(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)


@pytest.mark.parametrize(
    ("command", "password"),
    [
        (("echo", "secret"), "secret"),
        (("printf", "secret"), "secret"),
        (("printf", r"secret\r\nurl: nas\n"), "secret"),
        (("printf", " a b \\n"), " a b "),
        (("echo", "$HOME *"), "$HOME *"),
        (shell("echo complaint >&2; echo secret"), "secret"),
        (shell("cat; echo after the end of input"), "after the end of input"),
    ],
)
def test_the_output_of_a_command(command, password):
    assert found(password_command=command).password == password


def test_a_command_below_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "password"
    program.write_text("#!/bin/sh\necho secret\n")
    program.chmod(0o700)
    assert found(password_command=("~/password",)).password == "secret"


def test_a_command_that_fails():
    said = refusal(
        password_command=shell(f"echo {PASSWORD}; echo first >&2; printf 'the \\033[1mlast\\n\\n' >&2; exit 3")
    )
    assert "sh failed with status 3 (the [1mlast)" in said
    assert "first" not in said


def test_a_command_that_fails_without_a_word():
    assert "sh failed with status 1:" in refusal(password_command=shell("exit 1"))


def test_a_command_that_a_signal_ends():
    assert "signal 9" in refusal(password_command=shell("kill -9 $$"))


def test_a_command_that_says_too_much():
    assert len(refusal(password_command=shell("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1"))) < 400


@pytest.mark.parametrize("content", ["", "#!/bin/sh\necho secret\n"])
def test_a_command_that_cannot_be_run(tmp_path, content):
    program = tmp_path / "password"
    if content:
        program.write_text(content)
        program.chmod(0o600)
    said = refusal(password_command=(str(program), PASSWORD))
    assert str(program) in said
    assert ("Permission denied" if content else "No such file") in said


def test_a_command_that_says_nothing():
    assert "password_command: the password is empty" in refusal(password_command=("true",))


def test_a_command_that_does_not_say_utf8():
    assert "UTF-8" in refusal(password_command=("printf", r"secret\377\n"))


def test_a_command_that_hangs_ends_with_the_deadline():
    before = time.monotonic()
    said = refusal(password_command=shell(f"printf '{PASSWORD}'; exec sleep 60"), deadline=0.3)
    assert time.monotonic() - before < 5
    assert "within 0.3 s" in said
    assert not [pid for pid in descendants(os.getpid()) if "sleep" in Path(f"/proc/{pid}/comm").read_text()]


# The keyring.


class MemoryKeyring(keyring.backend.KeyringBackend):
    """What the desktop would keep."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.trouble: Exception | None = None
        self.answering = threading.Event()
        self.answering.set()

    def get_password(self, service, username):
        self.answering.wait()
        if self.trouble is not None:
            raise self.trouble
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


@pytest.fixture
def desktop() -> Iterator[MemoryKeyring]:
    backend = MemoryKeyring()
    before = keyring.get_keyring()
    keyring.set_keyring(backend)
    yield backend
    backend.answering.set()
    keyring.set_keyring(before)


@pytest.mark.parametrize(
    ("url", "service", "account"),
    [
        ("smb://bob@nas.example/media", "smb://nas.example", "bob"),
        ("smb://bob@NAS:4450/media/films", "smb://nas", "bob"),
        ("smb://CORP;bob@nas/media", "smb://nas", "CORP;bob"),
        ("smb://bob@[fe80::1]/media", "smb://[fe80::1]", "bob"),
        ("smb://nas/media", "smb://nas", getpass.getuser()),
    ],
)
def test_a_password_of_the_keyring(desktop, url, service, account):
    keyring.set_password(service, account, PASSWORD)
    assert found(url, keyring=True).password == PASSWORD


def test_the_keyring_has_no_such_password(desktop):
    keyring.set_password("smb://nas", "bob", PASSWORD)
    said = refusal("smb://CORP;bob@nas/media", keyring=True)
    remedy = shlex.split(said[said.index("keyring set") :])
    assert remedy == ["keyring", "set", "smb://nas", "CORP;bob"]
    keyring.set_password(*remedy[2:], "another")
    assert found("smb://CORP;bob@nas/media", keyring=True).password == "another"


@pytest.mark.parametrize(
    "trouble",
    [keyring.errors.KeyringLocked("Failed to unlock\nthe collection!"), keyring.errors.InitError(), OSError("no bus")],
)
def test_the_keyring_cannot_be_asked(desktop, trouble):
    desktop.trouble = trouble
    said = refusal(keyring=True)
    assert (str(trouble).split("\n")[-1] or "InitError") in said
    assert "password_file" in said


def test_no_keyring_on_this_machine(desktop):
    keyring.set_keyring(keyring.backends.fail.Keyring())
    assert "keyring" in refusal(keyring=True)


def test_a_keyring_that_waits_for_somebody_takes_no_longer_than_the_deadline(desktop):
    desktop.answering.clear()
    before = time.monotonic()
    assert "within 0.2 s" in refusal(keyring=True, deadline=0.2)
    assert time.monotonic() - before < 5


def test_the_library_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "pip install 'netoverlay[keyring]'" in refusal(keyring=True)


def test_the_library_is_imported_only_when_it_is_asked_for():
    program = (
        "import sys; from netoverlay.backend_api import parse_url; from netoverlay_smb.credentials import resolve; "
        "from netoverlay_smb.options import SmbOptions; "
        "resolve(parse_url('smb://bob@nas/media'), SmbOptions(password_command=('echo', 'secret')), 10.0); "
        "print('keyring' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "False\n"
