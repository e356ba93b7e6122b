"""Where profiles lie, and where what belongs to one is kept."""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import platformdirs

from netoverlay.config.errors import ConfigError
from netoverlay.config.model import APPLICATION

SUFFIX = ".toml"
SYSTEM_DIRECTORY = Path("/etc") / APPLICATION


class ProfileFile(NamedTuple):
    """A profile that has not been read yet."""

    name: str
    path: Path
    """Absolute."""


def profile_directories() -> tuple[Path, ...]:
    """Where a NAME is looked for, in this order: $XDG_CONFIG_HOME/netoverlay, /etc/netoverlay."""
    return Path(platformdirs.user_config_dir(APPLICATION)), SYSTEM_DIRECTORY


def list_profiles() -> list[ProfileFile]:
    """Every profile that can be mounted by its name, sorted; of two that share a name the one that would be taken.

    OSError if a directory of profiles is there and cannot be read.
    """
    found: dict[str, ProfileFile] = {}
    for directory in profile_directories():
        if not directory.is_dir():
            continue
        for path in sorted(directory.iterdir()):
            if path.suffix == SUFFIX and path.is_file():
                found.setdefault(path.stem, ProfileFile(path.stem, path))
    return [found[name] for name in sorted(found)]


def find_profile(name_or_path: str) -> ProfileFile:
    """The profile that the user means: a path if it has a slash or ends in .toml, else a name.

    ConfigError if there is none. A path that is not there is not looked for elsewhere.
    """
    if "/" in name_or_path or name_or_path.endswith(SUFFIX):
        return _profile_at(Path(os.path.abspath(os.path.expanduser(name_or_path))))
    candidates = [directory / f"{name_or_path}{SUFFIX}" for directory in profile_directories()]
    for path in candidates:
        if path.is_file():
            return ProfileFile(name_or_path, path)
    raise ConfigError(candidates[0], "", f"no such profile, nor {candidates[1]}; {_alternative(name_or_path)}")


def _profile_at(path: Path) -> ProfileFile:
    """A profile given by its path has a name that no other has, unless the path is where its name would be found."""
    by_name = next((d / path.name for d in profile_directories() if (d / path.name).is_file()), None)
    if path.suffix == SUFFIX and path == by_name:
        return ProfileFile(path.stem, path)
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return ProfileFile(f"{path.stem}-{digest}", path)


def _alternative(name: str) -> str:
    if os.path.isfile(name):
        return f"for the file in this directory write ./{name}"
    names = [profile.name for profile in list_profiles()]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is: {', '.join(names)}" if names else "write one there, or give the path of one"


def private_upper(profile_name: str) -> Path:
    """The upper of a profile that names none: $XDG_DATA_HOME/netoverlay/PROFILE/upper."""
    return Path(platformdirs.user_data_dir(APPLICATION)) / profile_name / "upper"
