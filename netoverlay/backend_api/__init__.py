"""The seam between the overlay and its backends. Imports nothing of ours, so that others can build on it."""

from netoverlay.backend_api.backend import Backend, BackendFile, Readable, Writable
from netoverlay.backend_api.errors import (
    LayerSetupError,
    NotSupportedError,
    StaleHandleError,
    UnavailableError,
    os_error,
)
from netoverlay.backend_api.registry import BackendPlugin
from netoverlay.backend_api.types import (
    Access,
    AllocateMode,
    AttributeChange,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    FileVersion,
    LayerPath,
    LockKind,
    NamedEntry,
    RenameFlags,
    SpaceUsage,
    XattrMode,
    join_path,
    split_path,
)
from netoverlay.backend_api.url import LayerUrl, parse_url
from netoverlay.backend_api.whole_files import FileContent, WantedFile

__all__ = [
    "Access",
    "AllocateMode",
    "AttributeChange",
    "Backend",
    "BackendFile",
    "BackendPlugin",
    "Capabilities",
    "Creation",
    "DirEntry",
    "FileContent",
    "FileStat",
    "FileType",
    "FileVersion",
    "LayerPath",
    "LayerSetupError",
    "LayerUrl",
    "LockKind",
    "NamedEntry",
    "NotSupportedError",
    "Readable",
    "RenameFlags",
    "SpaceUsage",
    "StaleHandleError",
    "UnavailableError",
    "WantedFile",
    "Writable",
    "XattrMode",
    "join_path",
    "os_error",
    "parse_url",
    "split_path",
]
