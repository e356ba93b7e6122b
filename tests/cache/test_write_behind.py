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
        self.fails_for = ()
        self.by_others = threading.Semaphore(0)
        self.behind = WriteBehind(self._write)

    def _write(self, directory, contents):
        self.calls.append((directory, dict(contents)))
        if threading.current_thread() is not threading.main_thread():
            self.by_others.release()
        if directory in self.fails_for:
            raise MemoryError(directory)

    @property
    def directories(self):
        return [directory for directory, _ in self.calls]


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


@pytest.fixture
def contents_only(monkeypatch):
    """They are all that counts."""
    monkeypatch.setattr(write_behind, "ENTRY_BYTES", 0)


def test_those_of_a_directory_are_written_together_at_the_latest_at_the_end(written, never):
    for number in range(10):
        written.behind.put(f"d{number % 2}", {b"%d" % number: b"x"})
    assert written.calls == []
    written.behind.close()
    assert written.directories == ["d0", "d1"]
    assert written.calls[1][1] == {b"%d" % number: b"x" for number in range(1, 10, 2)}


@pytest.mark.parametrize("name", ["QUIET_SECONDS", "MOST_SECONDS"])
def test_time_has_them_written_by_another_thread(written, never, monkeypatch, name):
    monkeypatch.setattr(write_behind, name, 0.05)
    for count in (1, 2):  # also again, after all were written
        written.behind.put("d", {b"a": b"x"})
        assert written.by_others.acquire(timeout=20)
        assert written.calls == [("d", {b"a": b"x"})] * count


def test_many_of_one_directory_are_not_waited_with_nor_written_by_who_brings_them(
    written, never, contents_only, monkeypatch
):
    monkeypatch.setattr(write_behind, "TOGETHER_BYTES", 10)
    written.behind.put("d", {b"a": b"12345"})
    written.behind.put("e", {b"a": b"12345"})
    written.behind.put("e", {b"b": b"12345"})
    assert written.by_others.acquire(timeout=20)
    assert written.calls == [("e", {b"a": b"12345", b"b": b"12345"})]


def test_of_too_many_the_oldest_are_written(written, never, contents_only, monkeypatch):
    monkeypatch.setattr(write_behind, "MOST_BYTES", 100)
    for number in range(30):
        written.behind.put(f"d{number // 2}", {b"%d" % number: bytes(20)})
        assert 20 * (number + 1) - sum(20 * len(contents) for _, contents in written.calls) <= 100
    assert written.directories == [f"d{number}" for number in range(13)]


def test_empty_contents_count_too(written, never, monkeypatch):
    monkeypatch.setattr(write_behind, "MOST_BYTES", 10 * write_behind.ENTRY_BYTES)
    for number in range(10):
        for _ in range(2):  # the same one counts once
            written.behind.put(f"d{number}", {b"a": b""})
    assert written.calls == []
    written.behind.put("d", {b"a": b""})
    assert written.directories == ["d0"]
    written.behind.withdraw("d1", b"a")
    written.behind.put("e", {b"a": b""})
    assert written.directories == ["d0"]


def test_after_a_write_that_fails_the_others_are_written_by_the_thread(written, never, monkeypatch, caplog):
    written.fails_for = ("d0", "d1")
    for number in range(4):
        written.behind.put(f"d{number}", {b"a": b"x"})
    monkeypatch.setattr(write_behind, "TOGETHER_BYTES", 1)
    monkeypatch.setattr(write_behind, "QUIET_SECONDS", 0.0)
    written.behind.put("d0", {b"b": b"x"})
    for _ in range(4):
        assert written.by_others.acquire(timeout=20)
    written.behind.put("later", {b"a": b"x"})
    assert written.by_others.acquire(timeout=20)
    assert written.directories == ["d0", "d1", "d2", "d3", "later"]
    written.behind.close()
    assert caplog.text.count("work in the background has failed") == 2


def test_after_a_write_that_fails_the_others_are_written_by_who_brings_too_many(
    written, never, contents_only, monkeypatch
):
    for number in range(4):
        written.behind.put(f"d{number}", {b"a": bytes(10)})
    monkeypatch.setattr(write_behind, "MOST_BYTES", 5)
    written.fails_for = ("d0",)
    with pytest.raises(MemoryError):
        written.behind.put("e", {b"a": b""})
    written.behind.put("e", {b"b": b""})
    assert written.directories == ["d0", "d1", "d2", "d3"]


def test_after_a_write_that_fails_the_others_are_written_at_the_end(written, never):
    for number in range(4):
        written.behind.put(f"d{number}", {b"a": b"x"})
    written.fails_for = ("d0", "d2")
    with pytest.raises(MemoryError):
        written.behind.close()
    assert sorted(written.directories) == ["d0", "d1", "d2", "d3"]


def test_a_thread_that_cannot_be_started_is_started_for_the_next_one(written, monkeypatch):
    monkeypatch.setattr(write_behind, "QUIET_SECONDS", 0.0)
    with monkeypatch.context() as few_threads:
        few_threads.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError):
            written.behind.put("d", {b"a": b"x"})
    written.behind.put("e", {b"a": b"x"})
    for _ in range(2):
        assert written.by_others.acquire(timeout=20)
    assert written.directories == ["d", "e"]


def _no_thread(_):
    raise RuntimeError("can't start new thread")


def test_after_the_end_all_is_written_at_once(written):
    written.behind.close()
    written.behind.put("d", {b"a": b"x"})
    assert written.calls == [("d", {b"a": b"x"})]


def test_what_is_withdrawn_is_not_written(written, never, contents_only, monkeypatch):
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
