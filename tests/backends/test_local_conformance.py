"""The conformance suite on local directories: on disk, in memory, as an ordinary user, without the right to write."""

import pytest

from netoverlay.testing.backend_suite import BackendReadOnlySuite, BackendSuite
from netoverlay.testing.suite.read_only import CONTENT, DIRECTORY, FILE
from netoverlay_local import LocalBackend
from tests.backends.local_layers import MEMORY_DIRECTORY, ORDINARY_ID, fresh_directory, ordinary_user


class TestLocalOnDisk(BackendSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, tmp_path_factory):
        root = tmp_path_factory.mktemp("layer")
        return lambda: LocalBackend(str(root))


class TestLocalInMemory(BackendSuite):
    big_directory = 500

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        with fresh_directory(MEMORY_DIRECTORY) as root:
            yield lambda: LocalBackend(str(root))


class TestLocalAsOrdinaryUser(BackendSuite):
    big_directory = 500

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        with fresh_directory(owner=ORDINARY_ID) as root, ordinary_user():
            yield lambda: LocalBackend(str(root))

    def test_no_privileges_are_claimed(self, layer):
        assert layer.claims.whiteout_devices
        assert not layer.claims.devices
        assert not layer.claims.privileged_xattrs


class TestLocalWithoutRightToWrite(BackendReadOnlySuite):
    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        with fresh_directory() as root:
            (root / FILE).write_bytes(CONTENT)
            (root / DIRECTORY).mkdir()
            root.chmod(0o555)
            try:
                with ordinary_user():
                    yield lambda: LocalBackend(str(root))
            finally:
                root.chmod(0o755)
