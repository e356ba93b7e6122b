"""Several things that need a few round trips each, done at once by one thread.

Each is a conversation: a generator that yields what it asks, is sent what came of that, and returns what it was for.
What all of them ask at a time goes out together, so that they take as many round trips as the longest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

from netoverlay.backend_api.errors import UnavailableError

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

Conversation: TypeAlias = Generator[Sequence[Q], Sequence[A], T]


def converse(
    conversations: Sequence[Conversation[Q, A, T]],
    ask: Callable[[Sequence[Q]], Sequence[A]],
    forget: Callable[[A], object],
) -> list[T | OSError]:
    """What each returns, or the error that is its own; UnavailableError, which is about all of them, is raised.

    `ask` sends questions, and gives as many answers, which need not have arrived. `forget` gets those that nobody is
    told, because of what was raised.
    """
    results: dict[int, T | OSError] = {}
    untold: dict[int, Sequence[A] | None] = dict.fromkeys(range(len(conversations)))
    try:
        while untold:
            asked: dict[int, Sequence[Q]] = {}
            for number in list(untold):
                conversation, answers = conversations[number], untold.pop(number)
                try:
                    asked[number] = next(conversation) if answers is None else conversation.send(answers)
                except StopIteration as end:
                    results[number] = end.value
                except UnavailableError:
                    raise
                except OSError as error:
                    results[number] = error
            told = iter(ask([question for questions in asked.values() for question in questions]))
            untold = {number: [next(told) for _ in questions] for number, questions in asked.items()}
    finally:
        for answers in untold.values():
            for answer in answers or ():
                forget(answer)
        for each in conversations:
            each.close()
    return [results[number] for number in range(len(conversations))]
