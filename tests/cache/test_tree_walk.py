"""What shows that directories with few files are read one after the other."""

from __future__ import annotations

import pytest

from netoverlay.backend_api import DirEntry, FileStat, FileType
from netoverlay.cache.tree_walk import STEPS, TreeWalk


def entry(name: str, kind: FileType) -> DirEntry:
    return DirEntry(name, FileStat(kind, 1, 0o644, 0, 0, 0))


def tree(*paths: str) -> TreeWalk:
    """Of these files, all of which are known."""
    listings: dict[str, dict[str, DirEntry]] = {}
    for path in paths:
        above = ""
        *directories, name = path.split("/")
        for each in directories:
            listings.setdefault(above, {})[each] = entry(each, FileType.DIRECTORY)
            above = f"{above}/{each}".strip("/")
        listings.setdefault(above, {})[name] = entry(name, FileType.REGULAR)
    return TreeWalk(lambda directory: sorted(listings[directory].values()) if directory in listings else None)


def steps(walk: TreeWalk, *paths: str) -> list[bool]:
    found = []
    for path in paths:
        walk.opened(path)
        found.append(walk.goes_on())
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_directories_one_after_the_other(count: int) -> None:
    files = [f"d{number}/f{each}" for number in range(5) for each in range(count)]
    walk = tree(*files)
    found = steps(walk, *files)
    assert [at // count for at, is_sign in enumerate(found) if is_sign] == list(range(STEPS, 5))


def test_directories_of_several_levels() -> None:
    files = ["a/f", "a/b/f", "a/b/c/f", "a/d/f", "e/g/f", "e/h/f"]
    assert steps(tree(*files), *files) == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    "files",
    [
        ["p0/a", "p0/b/c/f", "p0/d", "p0/e/f", "p1/a", "p1/b/c/f"],
        ["p0/a", "p0/d", "p0/b/c/f", "p0/e/f", "p1/a", "p1/d"],
    ],
    ids=["in the order of names", "files first"],
)
def test_files_and_directories_beside_each_other(files: list[str]) -> None:
    found = steps(tree(*files), *files)
    assert found[-1 if files[1] == "p0/b/c/f" else 4]
    assert sum(found) >= 2


def test_empty_directories_are_passed_by() -> None:
    files = ["a/f", "b/f", "c/e/f"]
    walk = tree(*files, "b/empty/x")
    known = walk._known
    walk._known = lambda directory: [] if directory == "b/empty" else known(directory)
    assert steps(walk, *files) == [False, False, True]


def test_one_that_is_left_out_begins_it_again() -> None:
    files = [f"d{number}/f" for number in range(9)]
    walk = tree(*files)
    wanted = [files[number] for number in (0, 1, 2, 4, 5, 6)]
    assert steps(walk, *wanted) == [False, False, True, False, False, True]


def test_a_directory_that_is_not_read_to_its_end_or_from_its_begin_is_none() -> None:
    files = [f"d{number}/{name}" for number in range(6) for name in ("first", "last")]
    assert not any(steps(tree(*files), *(f"d{number}/first" for number in range(6))))
    assert not any(steps(tree(*files), *(f"d{number}/last" for number in range(6))))


def test_what_is_not_known_shows_nothing() -> None:
    walk = TreeWalk(lambda _: None)
    assert not any(steps(walk, *(f"d{number}/f" for number in range(6))))


def test_backwards_is_no_step() -> None:
    files = [f"d{number}/f" for number in range(6)]
    assert not any(steps(tree(*files), *reversed(files)))
    files = ["a/x", "b", "c/x", "d"]
    assert not any(steps(tree(*files), *reversed(files)))


def test_names_are_sorted_once_for_many_steps() -> None:
    files = [f"d{number:04}/f" for number in range(1000)]
    walk, asked = tree(*files), []
    known = walk._known
    walk._known = lambda directory: asked.append(directory) or known(directory)
    assert sum(steps(walk, *files)) == 998
    assert asked.count("") == 1


def test_where_a_walk_has_been_seen() -> None:
    walk = tree()
    for path, widens in [("a/b/one", True), ("a/b/two", False)]:
        walk.opened(path)
        assert walk.widens() == widens
    assert walk.is_within("a/b")
    assert walk.is_within("a/b/c")
    assert not walk.is_within("a")
    assert not walk.is_within("a/bb")
    walk.opened("z/of/another/program")
    walk.opened("a/c/one")
    assert walk.widens()
    assert walk.is_within("a/d")
    assert not walk.is_within("")
    walk.begins()
    assert walk.is_within("a/c")
    assert not walk.is_within("a/b")
    walk.opened("z/one")
    assert walk.widens()
    assert walk.is_within("")
