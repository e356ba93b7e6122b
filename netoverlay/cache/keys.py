"""The keys of the store: what stands for one content, and shows of which layer that is."""

from __future__ import annotations

import hashlib
from functools import lru_cache

_KEY_CHARACTERS = 40
_MARK_CHARACTERS = 16


def entry_key(*parts: str | int | None) -> str:
    """The key of what `parts` describe, which must be the same parts for the same content only."""
    text = "\0".join("-" if part is None else str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def layer_key(layer: str, *parts: str | int | None) -> str:
    """As entry_key(), of something of the layer with the identity `layer`: DiskStore.drop_layer() finds it."""
    return entry_key(layer, *parts) + _layer_mark(layer)


def part_key(whole: str, *parts: str | int | None) -> str:
    """The key of a part of what has the key `whole`, of the same layer."""
    return entry_key(whole, *parts) + whole[_KEY_CHARACTERS:]


def is_of_layer(key: str, layer: str) -> bool:
    """Whether layer_key() made it for the layer with this identity."""
    return key[_KEY_CHARACTERS:] == _layer_mark(layer)


@lru_cache(64)
def _layer_mark(layer: str) -> str:
    return entry_key("layer", layer)[:_MARK_CHARACTERS]
