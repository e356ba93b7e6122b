"""A file system in memory, mounted and served by this process: python -m tests.mounted.memory_server MOUNTPOINT.

Prints "ready" once it can be used, and at its end a JSON object: what was counted, and what the kernel did not take.
With --uid it drops root first. SIGTERM ends it; SIGUSR1 changes the files "changing", "coming" and "going" behind the
kernel's back and then notifies it. Until SIGUSR2, reading "slow", opening "shy" and looking "stuck" up wait, and say
so; only the second can be interrupted.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import logging
import os
import signal
import stat
import sys
import threading
from dataclasses import dataclass, field

from netoverlay.backend_api import waiting
from netoverlay.fuse import replies, requests
from netoverlay.fuse.abi import Fattr, Fopen
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.mount import MountOptions, mount
from netoverlay.fuse.negotiation import SessionSettings
from netoverlay.fuse.replies import FOR_EVER, DirectoryPacker, Entry, FuseAttributes, Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.session import Session, plain_errno
from netoverlay.kernel_channel import KernelSession
from netoverlay.pyfuse3_session import Pyfuse3Session
from tests.wire.refusing import RefusingOperations

ROOT = 1
FORGETS = (2, 42)
THREADS = 32
"""That serve requests, at most."""
BIG = bytes(range(256)) * 12288
FILES = {
    "hello": b"hello\n",
    "big": BIG,
    "slow": b"slow\n",
    "shy": b"shy\n",
    "changing": b"before\n",
    "going": b"",
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Node:
    mode: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, int] = field(default_factory=dict)


class Memory(RefusingOperations):
    """Everything is believed for ever, so that only notifications can change the kernel's mind."""

    def __init__(self) -> None:
        self.numbers = itertools.count(ROOT)
        self.nodes: dict[int, Node] = {}
        self.let_go = threading.Event()
        self.returned: list[tuple[int, int]] = []
        self.add(Node(stat.S_IFDIR | 0o755), "", 0)
        for name, data in FILES.items():
            self.add(Node(stat.S_IFREG | 0o644, bytearray(data)), name)

    def add(self, node: Node, name: str, parent: int = ROOT) -> int:
        nodeid = next(self.numbers)
        self.nodes[nodeid] = node
        if name:
            self.nodes[parent].children[name] = nodeid
        return nodeid

    def attributes(self, nodeid: int) -> FuseAttributes:
        node = self.nodes[nodeid]
        size = len(node.data)
        return FuseAttributes(
            nodeid, size, -(-size // 512), 0, 0, 0, 0, 0, 0, node.mode, 1, os.getuid(), os.getgid(), 0, 4096
        )

    def entry(self, nodeid: int) -> Entry:
        return Entry(nodeid, 0, FOR_EVER, FOR_EVER, self.attributes(nodeid))

    def lookup(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        if body.name == "stuck":
            waiting.about_to_wait()
            say("stuck")
            self.let_go.wait(60)
            return replies.entry(self.entry(ROOT + 1))
        nodeid = self.nodes[request.nodeid].children.get(body.name)
        return replies.absent(FOR_EVER) if nodeid is None else replies.entry(self.entry(nodeid))

    def forget(self, request: RequestHeader, body: requests.ForgetRequest) -> None:
        if request.opcode not in FORGETS:
            self.returned += body.forgets

    def getattr(self, request: RequestHeader, body: requests.GetattrRequest) -> Reply:
        return replies.attributes(self.attributes(request.nodeid), FOR_EVER)

    def setattr(self, request: RequestHeader, body: requests.SetattrRequest) -> Reply:
        node = self.nodes[request.nodeid]
        if body.valid & Fattr.SIZE:
            node.data[:] = node.data[: body.size].ljust(body.size, b"\0")
        if body.valid & Fattr.MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(body.mode)
        return replies.attributes(self.attributes(request.nodeid), FOR_EVER)

    def mkdir(self, request: RequestHeader, body: requests.MkdirRequest) -> Reply:
        return replies.entry(self.entry(self.add(Node(stat.S_IFDIR | body.mode), body.name, request.nodeid)))

    def unlink(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        del self.nodes[request.nodeid].children[body.name]
        return None

    rmdir = unlink

    def rename(self, request: RequestHeader, body: requests.RenameRequest) -> Reply:
        nodeid = self.nodes[request.nodeid].children.pop(body.old_name)
        self.nodes[body.new_parent].children[body.new_name] = nodeid
        return None

    def create(self, request: RequestHeader, body: requests.CreateRequest) -> Reply:
        nodeid = self.add(Node(body.mode), body.name, request.nodeid)
        return replies.created(self.entry(nodeid), nodeid)

    def open(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        if body.flags & os.O_TRUNC:
            self.nodes[request.nodeid].data.clear()
        if self.nodes[request.nodeid].data == b"shy\n":
            waiting.about_to_wait()
            say("shy")
            while not self.let_go.wait(0.02):
                waiting.check_interrupted()
        return replies.opened(request.nodeid, Fopen.KEEP_CACHE)

    def read(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        node = self.nodes[body.handle]
        if node.data == b"slow\n":
            waiting.about_to_wait()
            if not self.let_go.is_set():
                say("slow")
            self.let_go.wait(60)
        return bytes(node.data[body.offset : body.offset + body.size])

    def write(self, request: RequestHeader, body: requests.WriteRequest) -> Reply:
        data = self.nodes[body.handle].data
        data.extend(bytes(max(0, body.offset - len(data))))
        data[body.offset : body.offset + body.size] = body.data
        return replies.written(body.size)

    def statfs(self, request: RequestHeader, body: None) -> Reply:
        return replies.statistics(replies.FileSystemStatistics(1 << 20, 1 << 19, 1 << 19, 0, 0, 4096, 255, 4096))

    def opendir(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        return replies.opened(request.nodeid)

    def _list(self, body: requests.ReadRequest) -> list[tuple[str, int, int]]:
        names = {".": body.handle, "..": ROOT, **self.nodes[body.handle].children}
        return [(name, nodeid, self.nodes[nodeid].mode >> 12) for name, nodeid in names.items()][body.offset :]

    def readdir(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        packer = DirectoryPacker(body.size)
        for number, (name, nodeid, kind) in enumerate(self._list(body), body.offset + 1):
            if not packer.add(name, nodeid, kind, number):
                break
        return packer.reply()

    def readdirplus(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        packer = DirectoryPacker(body.size)
        for number, (name, nodeid, kind) in enumerate(self._list(body), body.offset + 1):
            if not packer.add_plus(name, nodeid, kind, number, None if name[0] == "." else self.entry(nodeid)):
                break
        return packer.reply()

    def release(self, request: RequestHeader, body: requests.ReleaseRequest) -> Reply:
        return None

    releasedir = release

    def flush(self, request: RequestHeader, body: requests.FlushRequest) -> Reply:
        return None

    def getxattr(self, request: RequestHeader, body: requests.GetxattrRequest) -> Reply:
        raise OSError(errno.ENODATA, body.name)


def session_of(channel: str, device: int, memory: Memory) -> KernelSession:
    settings = SessionSettings(max_threads=THREADS)
    if channel == "own":
        return Session(Channel(device), memory, settings)
    return Pyfuse3Session(device, memory, settings, plain_errno)


def change_behind_the_kernel(memory: Memory, session: KernelSession) -> None:
    """What a notification thread does: change, then tell. The last line says that it is done."""
    children = memory.nodes[ROOT].children
    changing, going = children["changing"], children.pop("going")
    memory.nodes[changing].data[:] = b"afterwards\n"
    memory.add(Node(stat.S_IFREG | 0o644), "coming")
    told = [
        session.notifier.invalidate_inode(changing),
        session.notifier.invalidate_entry(ROOT, "coming"),
        session.notifier.delete(ROOT, going, "going"),
        session.notifier.expire_entry(ROOT, "hello"),
        session.notifier.invalidate_inode(4711),
        session.notifier.invalidate_entry(ROOT, "never looked up"),
    ]
    say(json.dumps(told))


def main() -> None:
    logging.basicConfig(stream=sys.stderr)
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--uid", type=int, default=os.getuid())
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--channel", choices=["own", "pyfuse3"], default="own")
    options = parser.parse_args()
    if options.uid != os.getuid():
        os.setgroups([])
        os.setresgid(options.uid, options.uid, options.uid)
        os.setresuid(options.uid, options.uid, options.uid)
    memory = Memory()
    mounted = mount(options.mountpoint, MountOptions(source="memory, of a \\ test"))
    session = session_of(options.channel, mounted.device, memory)
    session.handshake()
    change = threading.Thread(target=change_behind_the_kernel, args=(memory, session))
    signal.signal(signal.SIGTERM, lambda *_: session.request_stop())
    signal.signal(signal.SIGUSR1, lambda *_: change.start())
    signal.signal(signal.SIGUSR2, lambda *_: memory.let_go.set())
    say("ready")
    session.run(mounted.detach, options.grace)
    say(json.dumps({"counters": session.counters(), "returned": memory.returned}))


if __name__ == "__main__":
    main()
