"""A plain remote directory as an upper: what the transport cannot keep is kept beside it, on the same server.

SFTP and SMB have no device nodes, no trusted attributes, no RENAME_EXCHANGE, and more. SidecarBackend adds them, for
one mount that is the only user of the upper. The format on the server is in docs/upper.md.

| File | One hard thing |
|---|---|
| `nodes.py` | The tree in memory, and who is changing which name. |
| `records.py`, `journal.py`, `reading.py` | The journal: its lines, when they are written, and how it is read. |
| `intents.py`, `recovery.py` | What is about to be done, and whether it was. |
| `markers.py`, `marks.py` | Whiteouts and opaque directories on the server. |
| `attributes.py`, `access_lists.py`, `file.py` | What is shown of a file, and changes of that; POSIX ACLs. |
| `context.py` | From paths to nodes. |
| `names.py` | Each change of names. |
| `backend.py` | The calls of the seam. |
"""

from netoverlay.wrappers.sidecar.backend import SidecarBackend

__all__ = ["SidecarBackend"]
