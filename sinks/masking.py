"""What a destination says, fit for logs and pages: without the values of the events it speaks about."""

import json
import re

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?')  # of JSON; with a colon behind it, a name


def without_values(words: str, sent: bytes) -> str:
    """The words with … for every value in `sent`, which is JSON, that is a string and that they repeat.

    A user id must stand in no log, and only what the event carries can be one; its own dead letter has it all."""
    if not words:
        return words
    forms: set[str] = set()  # as it was sent, as it is meant, as another encoder escapes it
    for sent_as, colon in _STRING.findall(sent.decode(errors="replace")):
        if not colon:
            text = json.loads(f'"{sent_as}"', strict=False)
            forms |= {sent_as, text, json.dumps(text)[1:-1]}
    for text in sorted((form for form in forms if form and form in words), key=len, reverse=True):
        words = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", "…", words)
    return words
