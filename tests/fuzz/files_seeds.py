"""Well-formed files, for the search to begin with."""

from __future__ import annotations

from typing import Final

import msgspec

PROFILES: Final = (
    b'[[lower]]\nurl = "/srv/base"\n',
    b"""mountpoint = "/mnt/dev"
read_only = false
[[lower]]
url = "sftp://me@host:2222/srv/base"
immutable = true
deadline = 5.5
on_down = "cache"
squash = "all"
uid = "root"
gid = 100
identity_file = "~/.ssh/id"
transport = "ssh"
[[lower]]
url = "smb://host/share/dir"
ttl = 0
sign = true
file_mode = 0o644
password_command = ["pass", "smb"]
idmap = ["u:0:1000:10", "g:0:1000:10"]
[upper]
url = "/var/upper"
work = "/var/work"
private = true
[cache]
directory = "/var/cache/x"
[locks]
mode = "delegate"
[mount]
channel = "native"
""",
    b'read_only = true\nlower = [{url = "file:///srv/a%20b", ttl = 1e3}, {url = "/srv/c"}]\n',
)
JOURNALS: Final = (
    b"""{"format":"netoverlay-sidecar","version":1,"next":9}
{"node":1,"mode":493,"uid":0,"gid":0}
{"node":2,"directory":true,"mode":448,"mtime":1000000000000000000,"xattrs":{"user.a":"dmFsdWU="}}
{"name":"up","in":1,"node":2,"directory":true}
{"node":3,"type":"character-device","rdev":259,"mode":384}
{"name":"null","in":2,"node":3}
{"node":4,"type":"symlink","target":"../x"}
{"name":"link\\udcff","in":2,"node":4}
{"name":"d","in":2,"node":5,"directory":true}
{"intent":6,"rename":[[2,"a"],[2,"b"]],"node":4}
{"done":6}
{"intent":7,"exchange":[[2,"null"],[2,"d"]],"aside":"#aside-7"}
{"step":7}
{"intent":8,"remove":[[2,"d"]]}
{"undone":8}
{"intent":9,"enter":[[5,"new"]],"node":3}
{"end":true}
""",
    b'{"format":"netoverlay-sidecar","version":1,"next":2}\n{"node":1,"mode":493}\n{"name":"x","in":1',
)
MAPS: Final = (
    b"""{"format":"netoverlay-lazy","version":1,"layer":"sftp://h/b","path":"d/a","size":100,"mtime":1,"file_id":null,\
"boot":"boot","missing":[[0,100],[200,300]]}
{"have":[0,10]}
{"synced":200}
{"boot":"other"}
{"have":[50,60]}
""",
)
NESTED: Final = (
    b"[" * 3000,
    b'{"a":' * 3000,
    b"a = " + b"[" * 3000,
    b"a = " + b"9" * 5000,
    b"a = " + b"{a=" * 3000,
    b'{"command": ' + b"9" * 5000 + b"}",
    b'{"node":' + b"9" * 5000 + b"}\n",
    b'{"node":Infinity}\n',
    b'{"have":[1e400,NaN]}\n',
)
"""What the usual parsers have trouble with."""


ODD_LINES: Final = (
    b'{"name":"..","in":2,"node":4}\n',
    b'{"name":"a/b","in":2,"node":5,"directory":true}\n',
    b'{"name":"up","in":2,"node":2,"directory":true}\n',
    b'{"name":"x","in":5,"node":1,"directory":true}\n',
    b'{"name":"d","in":1,"node":5,"directory":true}\n',
    b'{"name":"d","in":5,"node":2,"directory":true}\n',
    b'{"node":3,"rdev":-1,"mode":99999999999999999999}\n',
    b'{"node":5,"directory":true,"mtime":1e300}\n',
    b'{"intent":6,"rename":[[2,"d"],[5,"x"]]}\n{"done":6}\n',
    b'{"intent":6,"exchange":[[2,"d"],[5,"x"]]}\n',
    b'{"intent":6,"exchange":[[2,"d"],[5,"x"]],"aside":"../up/d"}\n',
    b'{"intent":6,"remove":[]}\n',
    MAPS[0].replace(b'"d/a"', b'"../a"'),
    MAPS[0].replace(b'"d/a"', b'["a"]').replace(b'"boot":"boot"', b'"boot":7'),
    MAPS[0].replace(b"[0,100]", b"[100,0]").replace(b"[200,300]", b"[-5,99999999999999999999]"),
    b'{"have":[-5,99999999999999999999]}\n',
    b'{"5":[1e999,2]}',
    b'{"5":[1,2],"99999999999999999999999":[3,99999999999999999999999]}',
)
"""What fits together with the ones above, and must not be taken at its word."""


def packed(value: object) -> bytes:
    """As it is kept."""
    return msgspec.msgpack.encode(value)
