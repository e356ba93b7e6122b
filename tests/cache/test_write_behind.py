"""Small contents that are written behind those who read them: how often, when, and what is never waited with."""

from __future__ import annotations

import threading

import pytest

from netoverlay.cache import write_behind
from netoverlay.cache.write_behind import WriteBehind
from netoverlay.testing.memory_backend import MemoryBackend
from tests.cache.calls import write_file
from tests.cache.test_small_files import Mount


class Written:
    """What is written, by which thread."""

    def __init__(self):
        self.calls = []
        self.by_others = threading.Semaphore(0)
        self.behind = WriteBehind(self._write)

    def _write(self, directory, contents):
        self.calls.append((directory, dict(contents)))
        if threading.current_thread() is not threading.main_thread():
            self.by_others.release()


@pytest.fixture
def written():
    written = Written()
    yield written
    written.behind.close()


@pytest.fixture
def never(monkeypatch):
    """Nothing is written for the time that has passed."""
    for name in ("QUIET_SECONDS", "MOST_SECONDS"):
        monkeypatch.setattr(write_behind, name, 3600.0)


def test_those_of_a_directory_are_written_together_at_the_latest_at_the_end(written, never):
    for number in range(10):
        written.behind.put(f"d{number % 2}", {b"%d" % number: b"x"})
    assert written.calls == []
    written.behind.close()
    assert [directory for directory, _ in written.calls] == ["d0", "d1"]
    assert written.calls[1][1] == {b"%d" % number: b"x" for number in range(1, 10, 2)}


@pytest.mark.parametrize("name", ["QUIET_SECONDS", "MOST_SECONDS"])
def test_time_has_them_written_by_another_thread(written, never, monkeypatch, name):
    monkeypatch.setattr(write_behind, name, 0.05)
    for count in (1, 2):  # also again, after all were written
        written.behind.put("d", {b"a": b"x"})
        assert written.by_others.acquire(timeout=20)
        assert written.calls == [("d", {b"a": b"x"})] * count


def test_many_of_one_directory_are_not_waited_with(written, never, monkeypatch):
    monkeypatch.setattr(write_behind, "TOGETHER_BYTES", 10)
    written.behind.put("d", {b"a": b"12345"})
    written.behind.put("e", {b"a": b"12345"})
    written.behind.put("d", {b"b": b"12345"})
    assert written.calls == [("d", {b"a": b"12345", b"b": b"12345"})]


def test_of_too_many_the_oldest_are_written(written, never, monkeypatch):
    monkeypatch.setattr(write_behind, "MOST_BYTES", 100)
    for number in range(30):
        written.behind.put(f"d{number // 2}", {b"%d" % number: bytes(20)})
        assert 20 * (number + 1) - sum(20 * len(contents) for _, contents in written.calls) <= 100
    assert [directory for directory, _ in written.calls] == [f"d{number}" for number in range(13)]


def test_what_is_withdrawn_is_not_written(written, never, monkeypatch):
    monkeypatch.setattr(write_behind, "MOST_BYTES", 100)
    written.behind.put("d", {b"a": bytes(60), b"b": bytes(10)})
    written.behind.put("e", {b"a": bytes(10)})
    for directory, member in (("d", b"a"), ("e", b"a"), ("e", b"b"), ("f", b"a")):
        written.behind.withdraw(directory, member)
    written.behind.put("g", {b"a": bytes(80)})
    assert written.calls == []
    written.behind.close()
    assert written.calls == [("d", {b"b": bytes(10)}), ("g", {b"a": bytes(80)})]


def test_a_walk_writes_once_a_directory_when_it_is_over(tmp_path, never, appended):
    layer = MemoryBackend()
    layer.connect()
    for number in range(12):
        layer.mkdir(f"d{number}", 0o755)
        for file in range(20):
            write_file(layer, f"d{number}/file{file}", b"content")
    mount = Mount(layer, tmp_path)
    contents = dict(mount.walk())
    assert appended == []
    mount.quiesce()
    assert len(appended) == len(set(appended)) == 12
    later = Mount(layer, tmp_path)
    assert dict(later.walk()) == contents
    assert later.opened() == []
    later.quiesce()


def test_what_is_kept_on_purpose_is_written_at_once_and_once(tmp_path, never, appended):
    layer = MemoryBackend()
    layer.connect()
    write_file(layer, "file", b"content")
    mount = Mount(layer, tmp_path)
    assert mount.cache.keep("file") == 7
    assert len(appended) == 1
    assert mount.cache.keep("file") == 0
    assert mount.read("file") == b"content"
    mount.quiesce()
    assert len(appended) == 1
