"""The `url` of a layer in a profile: SCHEME://[USER@]HOST[:PORT]/PATH, or the path of a local directory."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass

LOCAL_SCHEME = "file"


@dataclass(frozen=True, slots=True)
class LayerUrl:
    """A parsed url. It never holds a password: a url that has one is refused."""

    scheme: str
    path: str
    """Absolute, percent-decoded; for LOCAL_SCHEME with "~" expanded."""
    user: str | None = None
    host: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        if self.scheme == LOCAL_SCHEME:
            return self.path
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        user = f"{urllib.parse.quote(self.user, safe=';')}@" if self.user is not None else ""
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{user}{host}{port}{urllib.parse.quote(self.path, errors='surrogateescape')}"


def parse_url(text: str) -> LayerUrl:
    """Parse `text`; ValueError, with a sentence that says what to write instead, if it is no layer's url."""
    if "://" not in text:
        path = os.path.expanduser(text)
        if not os.path.isabs(path):
            raise ValueError(f"{text!r} is neither an absolute path nor SCHEME://[USER@]HOST[:PORT]/PATH")
        return LayerUrl(LOCAL_SCHEME, os.path.normpath(path))
    parts = urllib.parse.urlsplit(text)
    if parts.password is not None:
        raise ValueError("a password does not belong in a url: use a key, an agent or the backend's password options")
    if parts.query or parts.fragment:
        raise ValueError("a url has no '?' or '#': write them as %3F and %23")
    path = urllib.parse.unquote(parts.path, errors="surrogateescape")
    if parts.scheme == LOCAL_SCHEME:
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"file://{parts.netloc}/ names another host: write file:///PATH or the path alone")
        return LayerUrl(LOCAL_SCHEME, os.path.normpath(path or "/"))
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the port must be a number from 0 to 65535: {error}") from None
    if not parts.hostname:
        raise ValueError(f"{parts.scheme}:// needs a host: {parts.scheme}://[USER@]HOST[:PORT]/PATH")
    user = urllib.parse.unquote(parts.username) if parts.username is not None else None
    return LayerUrl(parts.scheme, os.path.normpath(path or "/"), user, parts.hostname, port)
