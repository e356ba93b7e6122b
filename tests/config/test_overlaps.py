"""Layers and mounts that would contain each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.config.errors import ConfigError
from netoverlay.config.load import load_profile
from netoverlay.config.model import Profile
from netoverlay.config.overlaps import refuse_mountpoint

WriteProfile = Callable[..., Path]
LAYERS = '[[lower]]\nurl = "{lower}"\n[upper]\nurl = "{upper}"\n'


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    base = tmp_path / "places"
    (base / "a" / "inside").mkdir(parents=True)
    (base / "ab").mkdir()
    (base / "link").symlink_to("a")
    return {"base": base, "a": base / "a", "inside": base / "a/inside", "ab": base / "ab", "link": base / "link"}


NESTED = {
    "the same": ("a", "a", "is the same directory as"),
    "upper in lower": ("a", "inside", "lies in"),
    "lower in upper": ("inside", "a", "holds"),
    "through a link": ("link", "inside", "lies in"),
    "a link to it": ("a", "link", "is the same directory as"),
}


@pytest.mark.parametrize("case", NESTED)
def test_nested_layers(case: str, places: dict[str, Path], write_profile: WriteProfile) -> None:
    lower, upper, relation = NESTED[case]
    file = write_profile(LAYERS.format(lower=places[lower], upper=places[upper]))
    with pytest.raises(ConfigError) as caught:
        load_profile("dev")
    remedy = "write a directory that is not in a lower layer, nor around one"
    assert str(caught.value) == f"{file}: upper.url: {places[upper].resolve()} {relation} lower[0].url; {remedy}"


def test_a_common_prefix_of_names_is_no_nesting(places: dict[str, Path], write_profile: WriteProfile) -> None:
    write_profile(LAYERS.format(lower=places["a"], upper=places["ab"]))
    load_profile("dev")


@pytest.mark.parametrize(("work", "relation"), [("ab", "is the same directory as"), ("base", "holds")])
def test_work_overlaps_upper(work: str, relation: str, places: dict[str, Path], write_profile: WriteProfile) -> None:
    text = LAYERS.format(lower="/usr/share", upper=places["ab"]) + f'work = "{places[work]}"\n'
    file = write_profile(text)
    with pytest.raises(ConfigError) as caught:
        load_profile("dev")
    remedy = "write a directory beside it, on the same file system"
    assert str(caught.value) == f"{file}: upper.work: {places[work]} {relation} upper.url; {remedy}"


def test_upper_as_an_entry_of_a_lower_made_of_the_root(write_profile: WriteProfile) -> None:
    write_profile(LAYERS.format(lower="/", upper="/var/lib/dev/upper"))
    with pytest.raises(ConfigError, match="lies in lower"):
        load_profile("dev")


@pytest.fixture
def profile(places: dict[str, Path], write_profile: WriteProfile) -> Profile:
    cache = places["base"] / "cachemount/cache"
    text = LAYERS.format(lower=places["a"], upper=places["ab"]) + f'[cache]\ndirectory = "{cache}"\n'
    write_profile(text)
    return load_profile("dev")


def test_mountpoint_in_a_layer(profile: Profile, places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_mountpoint(profile, places["inside"])
    expected = f"holds the mountpoint {places['inside']}; write a mountpoint outside of {places['a']}"
    assert str(caught.value) == f"{profile.file}: lower[0].url: {expected}"


def test_mountpoint_that_would_hold_the_cache(profile: Profile, places: dict[str, Path]) -> None:
    mountpoint = places["base"] / "cachemount"
    with pytest.raises(ConfigError) as caught:
        refuse_mountpoint(profile, mountpoint)
    expected = f"lies in the mountpoint {mountpoint}; write a directory outside of it"
    assert str(caught.value) == f"{profile.file}: cache.directory: {expected}"


@pytest.mark.parametrize("place", ["a", "ab", "link"])
def test_a_layer_may_be_covered_by_the_mount(place: str, profile: Profile, places: dict[str, Path]) -> None:
    refuse_mountpoint(profile, places[place])
