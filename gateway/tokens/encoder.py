"""Texts become token ids, and what was encoded before is not encoded again; pure."""

import struct
from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer

from gateway.tokens.cutting import Cutter
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.memo import Memo

_PROBES: Final = (
    "Hello world",
    " leading and trailing spaces ",
    "\n\n  def f(x):\n\treturn 'x'\n\n",
    "Grüße, 世界! 🙂 e\u0301 \u200d\u00a0ﬁ",
    "don't 12345 3.14 A\u0130B",
    "",
    "  ",
    "▁<",
)
_MOST_PROBED_TOKENS: Final = 24

PARALLEL_CHARACTERS: Final = 8192
"""From so much text on pieces are encoded on all cores; for less, waking those threads takes longer."""


class Encoding:
    """The encoding of one text, begun: what the memo holds is there, `unknown_bytes` of text (UTF-8) are to do.

    InexactError for text that is not Unicode.
    """

    def __init__(self, encoder: "Encoder", pieces: list[str], *, framed: bool, special: bool) -> None:
        self._encoder = encoder
        self._pieces = pieces
        self._framed = framed
        self._special = special
        try:
            contents = [piece.encode() for piece in pieces]
        except UnicodeEncodeError:  # half of a surrogate pair: engines refuse it
            raise InexactError(Reason.MALFORMED) from None
        self._keys = [encoder.key(content, framed=framed) for content in contents]
        self._ids = [encoder.memo.get(key) for key in self._keys]
        sizes = [(len(content), ids is None) for content, ids in zip(contents, self._ids, strict=True)]
        self.unknown_bytes = sum(size for size, unknown in sizes if unknown)
        self.known_bytes = sum(size for size, unknown in sizes if not unknown)

    @property
    def unknown(self) -> frozenset[bytes]:
        """The keys of the pieces that are not encoded yet."""
        return frozenset(key for key, ids in zip(self._keys, self._ids, strict=True) if ids is None)

    def look_again(self) -> None:
        """Take from the memo what another encoding has put there meanwhile."""
        memo = self._encoder.memo
        self._ids = [memo.get(key) if ids is None else ids for key, ids in zip(self._keys, self._ids, strict=True)]

    def finish(self) -> bytes:
        """Encode what is unknown, in any thread, and give the whole text's ids as 4-byte little endian."""
        entries = zip(self._keys, self._pieces, self._ids, strict=True)
        missing = {key: piece for key, piece, ids in entries if ids is None}
        fresh = dict(
            zip(missing, self._encoder.encode_pieces(list(missing.values()), framed=self._framed), strict=True)
        )
        for key, ids in fresh.items():
            self._encoder.memo.put(key, ids)
        parts = [fresh[key] if ids is None else ids for key, ids in zip(self._keys, self._ids, strict=True)]
        return self._encoder.joined(parts, special=self._special)


class Encoder:
    """A tokenizer whose results are kept piece by piece. May be used from any thread.

    `tokenizer` is configured here (nothing is truncated or padded) and must not be changed afterwards. With a
    `cutter` whose cuts turn out to change results, texts are encoded and kept whole: `cuts` says which.
    """

    def __init__(self, tokenizer: Tokenizer, memo: Memo, *, name: str = "", cutter: Cutter | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.memo = memo
        self._tokenizer = tokenizer
        self._name = name.encode() + b"\0"
        tokens = [] if tokenizer.encode_special_tokens else list(tokenizer.get_added_tokens_decoder().values())
        self._cutter = cutter or Cutter(tokens)
        self.cuts = self._cuts_change_nothing([token.content for token in tokens])
        self._frame = self._find_frame()

    def begin(self, text: str, *, special: bool = False) -> Encoding:
        """Look the text up. `special`: with the tokens that the tokenizer puts around a prompt, such as a BOS.

        InexactError for text that is not Unicode.
        """
        if special and self._frame is None:  # it is not known what goes around a text: encode the two together
            return Encoding(self, [text], framed=True, special=False)
        return Encoding(self, self._cutter.pieces(text) if self.cuts else [text], framed=False, special=special)

    def encode(self, text: str, *, special: bool = False) -> bytes:
        """The text's ids as 4-byte little endian. InexactError for text that is not Unicode."""
        return self.begin(text, special=special).finish()

    def key(self, content: bytes, *, framed: bool) -> bytes:
        """The memo's key of a piece: tokenizers may share a memo."""
        return self.memo.key(b"%b%d%b" % (self._name, framed, content))

    def encode_pieces(self, pieces: Sequence[str], *, framed: bool = False) -> list[bytes]:
        """Each piece's packed ids, past the memo; the interpreter's lock is free meanwhile."""
        if sum(map(len, pieces)) < PARALLEL_CHARACTERS:
            return [self.encode_whole(piece, special=framed) for piece in pieces]
        return [pack(done.ids) for done in self._tokenizer.encode_batch_fast(pieces, add_special_tokens=framed)]

    def encode_whole(self, text: str, *, special: bool) -> bytes:
        """The text's packed ids, past memo and cuts: what the pieces must amount to."""
        return pack(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def joined(self, parts: Sequence[bytes], *, special: bool) -> bytes:
        """The parts in one, with what the tokenizer puts around a prompt if `special`."""
        before, after = self._frame if special and self._frame else (b"", b"")
        return b"".join((before, *parts, after))

    def _cuts_change_nothing(self, specials: list[str]) -> bool:
        """Whether pieces amount to the whole, tried on texts with the tokenizer's own special tokens in them."""
        step = max(1, len(specials) // _MOST_PROBED_TOKENS)
        some = specials[::step]
        texts = [special.join(_PROBES) for special in some] or [" ".join(_PROBES)]
        texts += [special + probe + special for special in some[:4] for probe in _PROBES]
        texts.append("".join(probe + special for probe, special in zip(_PROBES, some, strict=False)))
        return all(
            b"".join(self.encode_pieces(self._cutter.pieces(text))) == self.encode_whole(text, special=False)
            for text in texts
        )

    def _find_frame(self) -> tuple[bytes, bytes] | None:
        """What the tokenizer puts before and after any prompt; None if that cannot be told apart from the prompt."""
        pairs = [
            (self.encode_whole(probe, special=False), self.encode_whole(probe, special=True))
            for probe in (*_PROBES[:3], "")
        ]
        count = self._tokenizer.num_special_tokens_to_add(False)
        frames = {(pairs[-1][1][: 4 * at], pairs[-1][1][4 * at :]) for at in range(count + 1)}
        fitting = [frame for frame in frames if all(frame[0] + bare + frame[1] == full for bare, full in pairs)]
        return fitting[0] if len(fitting) == 1 else None


def pack(ids: Sequence[int]) -> bytes:
    """Token ids as 4-byte little endian."""
    return struct.pack(f"<{len(ids)}I", *ids)
