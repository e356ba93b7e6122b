"""What is looked at: an upper that is owned, or at least free, and the lowers that belong to it, if they are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from netoverlay.backend_api import Backend, LayerPath, UnavailableError
from netoverlay.checking.findings import Finding, Kind
from netoverlay.overlay.layers import LayerStack, UpperLayer
from netoverlay.overlay.merge import Merge
from netoverlay.wrappers.sidecar.context import Context


@dataclass(slots=True)
class Subject:
    """One upper."""

    stack: LayerStack
    """Without lowers if they could not be reached, or hold nothing: then what they decide is not looked at."""
    sidecar: Context | None
    """Of an upper on a server."""
    unrecorded: frozenset[int] = frozenset()
    """The numbers of its nodes of which the journal had the name only."""
    unreadable: dict[LayerPath, Finding] = field(default_factory=dict)
    """What could not be looked at so far."""
    entries: int = 0
    inode_numbers: set[int] = field(default_factory=set)
    """Of all that was met."""
    lazy_tokens: set[str] = field(default_factory=set)
    """Of all lazily copied files that were met."""
    has_forgotten: bool = False
    """A repair took something out of the tree of the journal, which is to be written anew."""

    @property
    def upper(self) -> UpperLayer:
        return self.stack.writable_upper()

    @property
    def backend(self) -> Backend:
        return self.upper.backend

    @property
    def merge(self) -> Merge | None:
        """What the lowers show; None without lowers."""
        return Merge(self.stack) if self.stack.lowers else None

    @property
    def is_whole(self) -> bool:
        """Whether everything was looked at: only then is what nobody has met there for nothing."""
        return not self.unreadable

    @contextmanager
    def reading(self, path: LayerPath) -> Iterator[None]:
        """Note what cannot be read inside, and go on. UnavailableError is raised."""
        try:
            yield
        except UnavailableError:
            raise
        except OSError as error:
            self.unreadable.setdefault(path, Finding(Kind.UNREADABLE, path, error.strerror or str(error)))
