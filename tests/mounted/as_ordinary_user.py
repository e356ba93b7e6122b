"""The command `netoverlay`, run by an ordinary user: python -m tests.mounted.as_ordinary_user UID ARGUMENT...

Started by root, it imports what the command needs, for the interpreter may lie where that user may not look, and then
gives up every privilege before the command begins.
"""

from __future__ import annotations

import codecs
import os
import sys

import netoverlay.background
import netoverlay.config.load
import netoverlay.daemon
import netoverlay.status.overview
import netoverlay.unmounting  # noqa: F401
import netoverlay_local  # noqa: F401
import netoverlay_sftp  # noqa: F401
import netoverlay_smb  # noqa: F401
from netoverlay.cli import main
from netoverlay_sftp import backend, connection_errors, login, paramiko_stream  # noqa: F401
from netoverlay_smb import connecting  # noqa: F401

if __name__ == "__main__":
    for encoding in ("ascii", "idna", "latin-1", "utf-8-sig", "utf-16-le"):
        codecs.lookup(encoding)
    uid = int(sys.argv[1])
    if os.getuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    main(sys.argv[2:], prog_name="netoverlay")
