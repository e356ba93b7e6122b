"""The upper on disk is the kernel overlayfs's: what either of the two wrote, the other shows, and goes on with."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.mounted.kernel_overlayfs import (
    CAPABILITY,
    CHANGES,
    Disturber,
    Facts,
    add,
    assert_alike,
    change_all,
    exchange,
    facts,
    get,
    overlayfs,
    plant,
    plant_second,
    put,
)
from tests.mounted.mounting import OverlayMount, layer_table, run
from tests.mounted.ordinary_user import UID
from tests.mounted.test_users import UserMount, give

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root mounts overlayfs; the run as root, which CI is, has it"
)

USUAL = "redirect_dir=on,index=off,metacopy=off"
STEPS = 80
KNOWS_WHITEOUT_FILES = tuple(map(int, platform.release().split(".")[:2])) >= (6, 8)


class Layers:
    """An upper and lowers, to be mounted by one at a time."""

    def __init__(
        self, place: Path, lowers: int, parts: Sequence[str] = ("part",), names: Iterable[str] = CHANGES
    ) -> None:
        self.lowers = [place / f"lower{index}" for index in range(lowers)]
        for lower in self.lowers:
            lower.mkdir()
        for path in (f"{part}/{name}" for part in parts for name in names):
            for lower in self.lowers[:-1]:
                plant_second(f"{lower}/{path}", f"/{path}/away")
            plant(f"{self.lowers[-1]}/{path}")
        self._place = place
        self.set_lowers(self.lowers)

    def set_lowers(self, lowers: list[Path]) -> None:
        self.lowers = lowers
        tables = "".join(layer_table(str(lower)) for lower in lowers)
        self.mount = OverlayMount(self._place / "ours", tables, private=False)
        self.upper = self.mount.upper
        self.work = Path(f"{self.upper}.work")

    @contextmanager
    def ours(self) -> Iterator[str]:
        with self.mount:
            yield str(self.mount.path)

    def theirs(self, options: str = USUAL) -> AbstractContextManager[str]:
        return overlayfs(self._place / "theirs", self.lowers, self.upper, self.work, options)


OPTIONS = {
    "default": "",
    "index": "index=on,redirect_dir=on",
    "metacopy": "metacopy=on,redirect_dir=on",
    "redirects": "redirect_dir=on,xino=on",
}


@pytest.mark.parametrize("lowers", [1, 2])
def test_theirs_shows_and_goes_on_with_what_ours_wrote(lowers: int, tmp_path: Path) -> None:
    layers = Layers(tmp_path, lowers)
    with layers.ours() as top:
        change_all(f"{top}/part")
        ours = facts(top)
    with layers.theirs() as top:
        assert_alike(ours, facts(top))
        Disturber(top, lowers).go_on(STEPS)
        theirs = facts(top)
    with layers.ours() as top:
        assert_alike(facts(top), theirs)


@pytest.mark.parametrize("options", OPTIONS)
def test_ours_shows_and_goes_on_with_what_theirs_wrote(options: str, tmp_path: Path) -> None:
    layers = Layers(tmp_path, 2)
    with layers.theirs(OPTIONS[options]) as top:
        change_all(f"{top}/part")
        theirs = facts(top)
    with layers.ours() as top:
        assert_alike(facts(top), theirs)
        Disturber(top, 3).go_on(STEPS)
        ours = facts(top)
    with layers.theirs(OPTIONS[options]) as top:
        assert_alike(ours, facts(top))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_by_turns(seed: int, tmp_path: Path) -> None:
    layers = Layers(tmp_path, 2, names=("one", "two"))
    options = "redirect_dir=on,metacopy=on,index=on" if seed % 2 else "redirect_dir=on"
    shown: Facts | None = None
    for turn in range(4):
        with layers.theirs(options) if turn % 2 else layers.ours() as top:
            now = facts(top)
            if shown is not None:
                assert_alike(*((shown, now) if turn % 2 else (now, shown)))
            Disturber(top, 10 * seed + turn).go_on(STEPS)
            shown = facts(top)


def test_hard_links_that_are_in_the_index_of_theirs(tmp_path: Path) -> None:
    """A name that was not copied up follows the others, and both count alike, whoever gives and takes names."""
    base = tmp_path / "base"
    base.mkdir()
    put(f"{base}/a", b"base\n")
    for name in ("b", "c", "d"):
        os.link(base / "a", base / name)
    layers = Layers(tmp_path, 0, parts=())
    layers.set_lowers([base])

    def shown(top: str) -> dict[str, tuple[int, bytes]]:
        names = sorted(os.listdir(top))
        for name in names:
            os.lstat(f"{top}/{name}")
        return {name: (os.lstat(f"{top}/{name}").st_nlink, get(f"{top}/{name}")) for name in names}

    def turn(mounted: AbstractContextManager[str], change: Callable[[str], None]) -> None:
        nonlocal expected
        with mounted as top:
            assert shown(top) == expected
            change(top)
            expected = shown(top)

    expected = dict.fromkeys("abcd", (4, b"base\n"))
    turn(layers.theirs(OPTIONS["index"]), lambda top: add(f"{top}/b", b"more\n"))
    assert expected == dict.fromkeys("abcd", (4, b"base\nmore\n"))
    turn(layers.ours(), lambda top: os.unlink(f"{top}/a"))
    turn(layers.theirs(OPTIONS["index"]), lambda top: os.link(f"{top}/c", f"{top}/e"))
    turn(layers.ours(), lambda top: os.rename(f"{top}/b", f"{top}/f"))
    turn(layers.theirs(OPTIONS["index"]), lambda top: os.unlink(f"{top}/d"))
    assert expected == dict.fromkeys("cef", (3, b"base\nmore\n"))

    def remove_all(top: str) -> None:
        for name in expected:
            os.unlink(f"{top}/{name}")

    turn(layers.ours(), remove_all)
    turn(layers.theirs(OPTIONS["index"]), lambda _: None)
    assert os.listdir(layers.work / "index") == []


def test_data_that_is_in_a_layer_below(tmp_path: Path) -> None:
    """metacopy=on: what theirs left in the lower is read from there, until it is written to."""
    layers = Layers(tmp_path, 2, names=("one",))
    options = OPTIONS["metacopy"]
    with layers.theirs(options) as top:
        part = f"{top}/part/one"
        for name in ("big", "capable", "sparse", "dir/sub/c", "other/a", "file", "hard2"):
            os.chmod(f"{part}/{name}", 0o604)
        os.rename(f"{part}/big", f"{part}/dir/sub/big")
        os.rename(f"{part}/file", f"{part}/file2")
        os.link(f"{part}/file2", f"{part}/dir/file3")
        os.rename(f"{part}/dir", f"{part}/empty")
        theirs = facts(top)
    upper = layers.upper / "part" / "one"
    lacking = {path for path in upper.rglob("*") if "trusted.overlay.metacopy" in os.listxattr(path)}
    assert len(lacking) == 8
    with layers.ours() as top:
        part = f"{top}/part/one"
        assert_alike(facts(top), theirs)
        assert all("trusted.overlay.metacopy" in os.listxattr(path) for path in lacking), "reading copies nothing"
        os.rename(f"{part}/other/a", f"{part}/empty/moved")
        os.rename(f"{part}/empty/sub", f"{part}/sub")
        exchange(f"{part}/sub/c", f"{part}/sparse")
        os.link(f"{part}/file2", f"{part}/acl/file4")
        os.unlink(f"{part}/file2")
        assert os.getxattr(upper / "empty/moved", "trusted.overlay.redirect") == b"/part/one/other/a"
        ours = facts(top)
    with layers.theirs(options) as top:
        assert_alike(ours, facts(top))
    with layers.ours() as top:
        part = f"{top}/part/one"
        before = os.stat(f"{part}/capable")
        with open(f"{part}/capable", "r+b"):
            pass
        assert os.stat(f"{part}/capable").st_mtime_ns == before.st_mtime_ns
        assert os.getxattr(f"{part}/capable", "security.capability") == CAPABILITY
        for name in ("sub/big", "acl/file4", "sparse", "empty/moved"):
            add(f"{part}/{name}", b"appended")
        ours = facts(top)
    assert {str(path.relative_to(upper)) for path in upper.rglob("*") if _lacks_data(path)} == {"hard2", "sub/c"}
    with layers.theirs(options) as top:
        assert_alike(ours, facts(top))


def _lacks_data(path: Path) -> bool:
    return "trusted.overlay.metacopy" in os.listxattr(path, follow_symlinks=False)


def test_an_open_file_whose_data_is_in_a_layer_below(tmp_path: Path) -> None:
    layers = Layers(tmp_path, 1, names=("one",))
    with layers.theirs(OPTIONS["metacopy"]) as top:
        os.chmod(f"{top}/part/one/big", 0o604)
        os.chmod(f"{top}/part/one/file", 0o604)
    with layers.ours() as top:
        path = f"{top}/part/one/big"
        whole = get(path)
        with open(path, "rb", buffering=0) as reader, open(path, "r+b") as writer:
            assert reader.read(10) == whole[:10]
            writer.write(b"changed")
            writer.flush()
            reader.seek(0)
            assert reader.read() == b"changed" + whole[7:]
        with open(f"{top}/part/one/file", "rb") as reader:
            os.unlink(f"{top}/part/one/file")
            os.fchmod(reader.fileno(), 0o600)
            assert reader.read() == b"0 file\n"
            assert os.fstat(reader.fileno()).st_mode & 0o777 == 0o600
    assert stat.S_IMODE((layers.lowers[0] / "part/one/file").stat().st_mode) == 0o644


def test_data_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    layers = Layers(tmp_path, 1, names=("one",))
    with layers.theirs(OPTIONS["metacopy"]) as top:
        os.chmod(f"{top}/part/one/file", 0o604)
    (layers.lowers[0] / "part/one/file").unlink()
    with layers.ours() as top, pytest.raises(OSError, match="Input/output error"):
        get(f"{top}/part/one/file")


def test_a_lower_that_was_an_upper(tmp_path: Path) -> None:
    """With files whose data is in the layers below it, marks of all kinds, and a further upper on top."""
    options = OPTIONS["metacopy"]
    below = Layers(tmp_path, 1)
    with below.theirs(options) as top:
        change_all(f"{top}/part")
    with below.ours() as top:
        Disturber(top, 4).go_on(STEPS)
    (tmp_path / "above").mkdir()
    layers = Layers(tmp_path / "above", 0, parts=())
    layers.set_lowers([below.upper, *below.lowers])
    (layers.upper / "used").touch()  # else its root is given the attributes of the lower's
    with layers.theirs(options) as top:
        theirs = facts(top)
    with layers.ours() as top:
        assert_alike(facts(top), theirs)
        Disturber(top, 5).go_on(2 * STEPS)
        ours = facts(top)
    with layers.theirs(options) as top:
        assert_alike(ours, facts(top))


@pytest.mark.parametrize("place", ["lower", "upper"])
def test_whiteouts_that_are_files(place: str, tmp_path: Path) -> None:
    """As tools write them that cannot make devices."""
    layers = Layers(tmp_path, 2, names=("one",))
    marked = (layers.lowers[0] if place == "lower" else layers.upper) / "part" / "one"
    for name in ("dir", "other", "."):
        (marked / name).mkdir(parents=True, exist_ok=True)
        os.setxattr(marked / name, "trusted.overlay.opaque", b"x")
    for name in ("dir/a", "dir/sub", "other/a", "file"):
        if os.path.isdir(marked / name):
            shutil.rmtree(marked / name)
        put(f"{marked}/{name}", b"")
        os.setxattr(marked / name, "trusted.overlay.whiteout", b"")
    put(f"{marked}/dir/empty", b"")
    (layers.upper / "used").touch()  # else its root is given the attributes of the lower's
    with layers.theirs() as top:
        theirs = facts(top) if place == "lower" and KNOWS_WHITEOUT_FILES else None
    with layers.ours() as top:
        part = f"{top}/part/one"
        ours = facts(top)
        assert sorted(os.listdir(f"{part}/other")) == ["hard", "sub"]
        assert {"a", "sub"}.isdisjoint(os.listdir(f"{part}/dir"))
        assert not os.path.lexists(f"{part}/dir/a")
        assert get(f"{part}/dir/empty") == b""
        os.mkdir(f"{part}/dir/a")
        os.rename(f"{part}/dir/a", f"{part}/other/a")
        put(f"{part}/file", b"again")
        os.rename(f"{part}/big", f"{part}/dir/a")
        os.unlink(f"{part}/dir/a")
        assert os.listdir(f"{part}/other/a") == []
    if theirs is not None:
        assert_alike(ours, theirs)


def test_a_volatile_upper_is_refused_until_somebody_has_seen_to_it(tmp_path: Path) -> None:
    layers = Layers(tmp_path, 1, names=("one",))
    with layers.theirs("volatile,redirect_dir=on") as top:
        Disturber(top, 6).go_on(STEPS)
        theirs = facts(top)
    with pytest.raises(AssertionError, match=r"upper\.url: .* with the option volatile, .*: see to that, and remove"):
        layers.mount.mount()
    layers.mount.log.unlink()
    shutil.rmtree(layers.work / "work" / "incompat")
    with layers.ours() as top:
        assert_alike(facts(top), theirs)


def test_marks_are_neither_shown_nor_lost(tmp_path: Path) -> None:
    layers = Layers(tmp_path, 1, names=("one",))
    marks = {f"trusted.overlay.{name}": name.encode() for name in ("origin", "impure", "nlink", "uuid", "protattr")}
    with layers.theirs() as top:
        for name in ("dir", "file", "dir/sub/c"):
            os.chmod(f"{top}/part/one/{name}", 0o707)
    for name in ("dir", "file"):
        for mark, value in marks.items():
            os.setxattr(layers.upper / "part/one" / name, mark, value)
    os.setxattr(layers.upper, "trusted.overlay.opaque", b"y")
    with layers.ours() as top:
        part = f"{top}/part/one"
        for name in ("dir", "file"):
            shown = os.listxattr(f"{part}/{name}")
            assert sorted(shown) == ["trusted.note", "user.note"]
            with pytest.raises(OSError, match="No data"):
                os.getxattr(f"{part}/{name}", "trusted.overlay.origin")
            os.rename(f"{part}/{name}", f"{part}/other/{name}")
        assert get(f"{part}/other/dir/a"), "an opaque root hides nothing"
    for name in ("dir", "file"):
        held = layers.upper / "part/one/other" / name
        assert {mark: os.getxattr(held, mark) for mark in marks} == marks


def test_marks_of_an_overlay_inside_are_kept_under_another_name(tmp_path: Path) -> None:
    layers = Layers(tmp_path, 1, names=("one",))
    base = layers.lowers[0] / "part" / "one"
    (layers.upper / "used").touch()  # else its root is given the attributes of the lower's
    for name in ("file", "dir", "dir/a"):
        os.setxattr(base / name, "trusted.overlay.overlay.opaque", b"y")
        os.setxattr(base / name, "trusted.overlay.opaque", b"n")
        os.setxattr(base / name, "user.overlay.opaque", b"of nobody's")
    with layers.ours() as top:
        part = f"{top}/part/one"
        assert os.getxattr(f"{part}/file", "trusted.overlay.opaque") == b"y"
        os.chmod(f"{part}/file", 0o600)
        os.setxattr(f"{part}/dir", "trusted.overlay.redirect", b"/nowhere")
        os.removexattr(f"{part}/dir/a", "trusted.overlay.opaque")
        ours = facts(top)
    assert os.getxattr(layers.upper / "part/one/dir", "trusted.overlay.overlay.redirect") == b"/nowhere"
    if KNOWS_WHITEOUT_FILES:
        with layers.theirs() as top:
            assert_alike(ours, facts(top))
    with layers.ours() as top:
        assert_alike(ours, facts(top))


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory on a path that an ordinary user may walk."""
    made = Path(tempfile.mkdtemp(prefix="netoverlay-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_an_ordinary_user_and_userxattr(open_place: Path) -> None:
    base, upper, work = (open_place / name for name in ("base", "upper", "upper.work"))
    for made in (base / "dir/sub", base / "gone", upper, work):
        made.mkdir(parents=True)
    for name in ("file", "dir/a", "dir/sub/b", "gone/c"):
        put(f"{base}/{name}", name.encode())
    give(open_place, UID)
    layers = ([base], upper, work, "userxattr")
    list_all = "find . -mindepth 1 ! -type d -printf '%p %y %m %u %s\\n' -exec cat {} + | sort; find . -type d | sort"
    with overlayfs(open_place / "theirs", *layers) as top:
        shutil.rmtree(f"{top}/dir/sub")
        os.mkdir(f"{top}/dir/sub")
        put(f"{top}/dir/sub/new", b"new\n")
        add(f"{top}/file", b"more\n")
        shutil.rmtree(f"{top}/gone")
        theirs = run("sh", "-c", list_all, cwd=Path(top))
    assert os.getxattr(upper / "dir/sub", "user.overlay.opaque") == b"y"
    put(f"{upper}/closed", b"")
    os.chmod(upper / "closed", 0o200)
    give(upper, UID)
    mount = UserMount(open_place, f'[[lower]]\nurl = "{base}"\nimmutable = true\n')
    try:
        written = "stat -c %a closed; echo x > closed; chmod 600 closed; cat closed; rm closed"
        assert mount.run(written) == "200\nx\n", "the marks of what its owner may not read are not asked for"
        assert mount.run(list_all).replace("nobody", "root") == theirs.replace("nobody", "root")
        mount.run("rm -r dir; mkdir dir; echo x > dir/x; mkdir gone; echo y >> gone/y; rm file")
        ours = mount.run(list_all)
    finally:
        assert mount.end() == 0, mount.log.read_text()
    with overlayfs(open_place / "theirs", *layers) as top:
        assert run("sh", "-c", list_all, cwd=Path(top)) == ours
