"""Questions about several files in one message: each ends by closing its file, and the next can follow.

A message of its own for each file costs Samba a quarter of what a look takes, and us as much of our part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from netoverlay_smb import commands, replies
from netoverlay_smb.commands import Body
from netoverlay_smb.protocol import Command
from netoverlay_smb.request import Request
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

FILES_TOGETHER = 8
"""With more of them nothing is gained that could be measured."""
_REPLY_BYTES = 65536
"""Content that one message may bring."""
_SHARE_OF_CREDITS = 8


def submit(session: Session, compounds: Sequence[list[Body]]) -> list[list[Request]]:
    """As session.submit_all(): the requests of each compound, whatever it was sent together with.

    A server may fail what follows a failure in the same message: see closed().
    """
    messages = list(_messages(session, compounds))
    sent = session.submit_all([[body for bodies in message for body in bodies] for message in messages])
    for requests, message in zip(sent, messages, strict=True):
        if len(message) > 1:
            session.note_joined(requests[-1])
    all_requests = (request for message in sent for request in message)
    return [list(islice(all_requests, len(bodies))) for message in messages for bodies in message]


def answers(session: Session, compounds: Sequence[list[Body]]) -> list[list[Request]]:
    """What comes of compounds that each end by closing a file, when all of it is there, and nothing is left open."""
    sent = _arrived(session, submit(session, compounds))
    in_doubt = [number for number, requests in enumerate(sent) if not closed(session, requests)]
    again = _arrived(session, session.submit_all([compounds[number] for number in in_doubt]))
    for number, requests in zip(in_doubt, again, strict=True):
        closed(session, requests)
        sent[number] = requests
    return sent


def closed(session: Session, requests: list[Request]) -> bool:
    """Whether a compound that ends by closing a file has done so; if not, what it has opened is closed now.

    Then what came of it may be the fault of what it was sent together with.
    """
    closing = session.engine.wait(requests[-1])
    if closing.status == Status.SUCCESS:
        return True
    opening = session.engine.wait(requests[0])
    if opening.status == Status.SUCCESS:
        session.forget(commands.close(session.parse(replies.created, opening.body).handle))
    return False


def forget(session: Session, requests: list[Request]) -> None:
    """Nobody looks at the answers to a compound: what it leaves open is closed."""
    if requests[-1].command != Command.CLOSE:
        session.engine.forget(requests[0])


def _arrived(session: Session, sent: list[list[Request]]) -> list[list[Request]]:
    # The last one first: whoever waits for one after the other hands the receiving over as often.
    for requests in reversed(sent):
        for request in reversed(requests):
            session.engine.wait(request)
    return sent


def _messages(session: Session, compounds: Sequence[list[Body]]) -> Iterator[list[list[Body]]]:
    credits_left, bytes_left = 0, 0
    message: list[list[Body]] = []
    for bodies in compounds:
        charge = sum(session.link.charge(body) for body in bodies)
        size = sum(body.reply_bytes for body in bodies)
        credits_left, bytes_left = credits_left - charge, bytes_left - size
        fits = session.joins and credits_left >= 0 and bytes_left >= 0 and len(message) < FILES_TOGETHER
        if message and not (fits and _closes(message[-1]) and _closes(bodies)):
            yield message
            message = []
        if not message:
            credits_left = session.engine.credits // _SHARE_OF_CREDITS - charge
            bytes_left = _REPLY_BYTES - size
        message.append(bodies)
    if message:
        yield message


def _closes(bodies: list[Body]) -> bool:
    return bodies[-1].command is Command.CLOSE
