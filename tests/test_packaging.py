"""What is in the repository, in the wheel and among the entry points is the same."""

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from netoverlay.backend_api import BackendPlugin
from netoverlay.backend_api.registry import ENTRY_POINT_GROUP, known_schemes, load_plugin

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def backend_folders():
    return sorted(path.parent.name for path in REPOSITORY.glob("backends/*/__init__.py"))


def declared_entry_points():
    return PROJECT["project"]["entry-points"][ENTRY_POINT_GROUP]


def test_the_wheel_holds_every_package():
    """hatchling takes a missing or forgotten package without a word."""
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted(["netoverlay", *(f"backends/{name}" for name in backend_folders())])


def test_every_backend_has_an_entry_point():
    modules = sorted(reference.partition(":")[0] for reference in declared_entry_points().values())
    assert modules == backend_folders()


def test_the_installed_entry_points_are_those_of_the_project():
    installed = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    assert installed == declared_entry_points()
    assert known_schemes() == sorted(installed)


@pytest.mark.parametrize("scheme", sorted(declared_entry_points()))
def test_the_plugin_loads(scheme):
    plugin = load_plugin(scheme)
    assert isinstance(plugin, BackendPlugin)
    plugin.options()


def test_mypy_checks_every_package():
    assert sorted(PROJECT["tool"]["mypy"]["packages"]) == sorted(["netoverlay", *backend_folders()])


def test_every_package_is_typed():
    for package in (REPOSITORY / "netoverlay", *(REPOSITORY / "backends" / name for name in backend_folders())):
        assert (package / "py.typed").is_file()
