"""What tests of more than one cache look at."""

from __future__ import annotations

import pytest

from netoverlay.cache.disk_store import DiskStore


@pytest.fixture
def reads(monkeypatch):
    """The keys of the store that are asked for."""
    asked = []

    def with_entry(store, key, use, ask=DiskStore._with_entry):
        asked.append(key)
        return ask(store, key, use)

    monkeypatch.setattr(DiskStore, "_with_entry", with_entry)
    return asked


@pytest.fixture
def appended(monkeypatch):
    """The keys of the packs that are appended to."""
    keys, append = [], DiskStore.append
    monkeypatch.setattr(DiskStore, "append", lambda store, key, data: keys.append(key) or append(store, key, data))
    return keys
