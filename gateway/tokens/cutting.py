"""Texts cut before special tokens, where a tokenizer splits them before it does anything else; pure.

Tokenizers of the `tokenizers` library look for the added tokens that are not normalised first, and what lies
between two of them is normalised, split and merged on its own. So a text may be cut there and its pieces be
encoded apart. Each piece but the first begins with its special token, which keeps its text away from the start:
some tokenizers put a space before a text that begins there.
"""

import re
from collections.abc import Iterable
from typing import Final

from tokenizers import AddedToken

_Trie = dict[str, "_Trie"]
_END: Final = ""


class Cutter:
    """Cuts at plain special tokens: those that are matched alike whatever surrounds them."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        first = [token for token in tokens if token.content and not token.normalized]
        self._plain = frozenset(token.content for token in first if _is_plain(token))
        # One that matches whole words only looks over the edge of its piece: then nothing may be cut.
        usable = bool(self._plain) and not any(token.single_word for token in first)
        self._pattern = re.compile(_longest(token.content for token in first)) if usable else None

    def pieces(self, text: str) -> list[str]:
        """The text's pieces in order, none of them empty; "" has none."""
        if self._pattern is None:
            return [text] if text else []
        plain, start, pieces = self._plain, 0, []
        for match in self._pattern.finditer(text):
            at = match.start()
            if at > start and match[0] in plain:
                pieces.append(text[start:at])
                start = at
        if start < len(text):
            pieces.append(text[start:])
        return pieces


def _is_plain(token: AddedToken) -> bool:
    loose = token.lstrip or token.rstrip or token.single_word
    return token.special and not loose and token.content == token.content.strip()


def _longest(words: Iterable[str]) -> str:
    """A pattern that matches the longest of the words that begin at a place, in time that does not grow with their
    number: there are tokenizers with a thousand special tokens.
    """
    trie: _Trie = {}
    for word in words:
        node = trie
        for character in word:
            node = node.setdefault(character, {})
        node[_END] = {}
    return _pattern(trie)


def _pattern(node: _Trie) -> str:
    branches = []
    for character, following in node.items():
        if character == _END:
            continue
        run = character
        while len(following) == 1 and _END not in following:
            [(character, following)] = following.items()
            run += character
        branches.append(re.escape(run) + _pattern(following))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)})" + ("?" if _END in node else "")
