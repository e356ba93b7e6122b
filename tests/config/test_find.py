"""Which file a name or a path means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.config import find
from netoverlay.config.errors import ConfigError
from netoverlay.config.find import find_profile, list_profiles

WriteProfile = Callable[..., Path]


@pytest.fixture
def system_profile(home: Path) -> Path:
    path = find.SYSTEM_DIRECTORY / "site.toml"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_the_users_profile_wins(write_profile: WriteProfile, system_profile: Path) -> None:
    assert find_profile("site") == ("site", system_profile)
    own = write_profile("", "site")
    assert find_profile("site") == ("site", own)
    assert list_profiles() == [("site", own)]


def test_profiles_are_listed_sorted(write_profile: WriteProfile, system_profile: Path) -> None:
    (system_profile.parent / "notes.txt").touch()
    (system_profile.parent / "directory.toml").mkdir()
    paths = {name: write_profile("", name) for name in ("zoo", "dev")}
    assert list_profiles() == [("dev", paths["dev"]), ("site", system_profile), ("zoo", paths["zoo"])]


def test_no_directory_of_profiles(home: Path) -> None:
    assert list_profiles() == []


@pytest.mark.parametrize("argument", ["./p.toml", "p.toml", "sub/../p.toml", "~/../work/p.toml"])
def test_paths(argument: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    found = find_profile(argument)
    assert found.path == work / "p.toml"
    assert found.name.startswith("p-")


def test_two_paths_have_two_names(home: Path) -> None:
    names = {find_profile(f"{home}/{directory}/dev.toml").name for directory in "ab"}
    assert len(names) == 2
    assert find_profile(f"{home}/a/dev.toml").name in names


def test_the_path_of_a_named_profile_is_that_profile(write_profile: WriteProfile) -> None:
    path = write_profile("")
    assert find_profile(str(path)) == find_profile("dev")


def test_a_shadowed_profile_is_not_the_named_one(write_profile: WriteProfile, system_profile: Path) -> None:
    write_profile("", "site")
    assert find_profile(str(system_profile)).name != "site"


def test_unknown_name_tells_what_there_is(write_profile: WriteProfile, home: Path) -> None:
    write_profile("", "dev")
    write_profile("", "data")
    where = f"{home}/.config/netoverlay"
    for name, remedy in {"devv": "did you mean 'dev'?", "xyz": "there is: data, dev"}.items():
        with pytest.raises(ConfigError) as caught:
            find_profile(name)
        expected = f"{where}/{name}.toml: no such profile, nor {find.SYSTEM_DIRECTORY}/{name}.toml; {remedy}"
        assert str(caught.value) == expected


def test_unknown_name_of_a_file_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "dev").touch()
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match=r"; for the file in this directory write \./dev$"):
        find_profile("dev")


def test_no_profiles_at_all(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"; write one there, or give the path of one$"):
        find_profile("dev")
