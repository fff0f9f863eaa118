"""From request bodies to exact token ids, by each pool's own way; does I/O."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from engines.registry import dialect
from gateway.config import TOKENIZER, Config, ConfigError
from gateway.serving.engine_client import EngineClient, Headers
from gateway.serving.tokenise.calls import FORMS, Site
from gateway.serving.tokenise.counts import TokenCounts
from gateway.serving.tokenise.disagreement import disagreement
from gateway.serving.tokenise.local import LocalTokens
from gateway.serving.tokenise.remote import EngineTokens
from gateway.tokens.errors import InexactError, TokeniserError
from gateway.tokens.memo import DEFAULT_MEMO_BYTES, Memo
from gateway.tokens.prompt import IdsPrompt, read
from gateway.tokens.tokeniser import Tokeniser
from gateway.wire.request import Endpoint

LIMIT_S: Final = 2.0
"""Seconds that one tokenisation, or one call of an engine for it, may take."""


@dataclass(frozen=True, slots=True)
class TokenisedPrompt:
    """A prompt's token ids as 4-byte little endian, and the kind of request in a word (see `ChatPrompt.shape`)."""

    tokens: bytes
    shape: str


class Tokenisers:
    """One per encoding that the pools name. What they give is exactly what engines prefill, else they give None."""

    def __init__(
        self,
        config: Config,
        engines: EngineClient,
        sites: Callable[[str], Sequence[Site]],
        *,
        limit_s: float = LIMIT_S,
        memo_bytes: int = DEFAULT_MEMO_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load every tokenizer. ConfigError, naming the pool, for one that cannot be used.

        `sites` gives the replicas of a pool that may be asked, best first.
        """
        self.counts = TokenCounts()
        self._engines = engines
        self._limit_s = limit_s
        self._memo = Memo(memo_bytes)
        self._sites = sites
        self._clock = clock
        self._local: dict[str, LocalTokens] = {}
        self._remote: dict[str, EngineTokens] = {}
        self.adopt(config, self.load(config))

    def load(self, config: Config) -> dict[str, Tokeniser]:
        """The tokenizers of encodings that are new; changes nothing, so it may run in a thread. Raises ConfigError."""
        loaded: dict[str, Tokeniser] = {}
        for pool in config.pools:
            encoding = pool.encoding
            if encoding.startswith(TOKENIZER) and encoding not in self._local and encoding not in loaded:
                loaded[encoding] = _load(pool.name, Path(encoding.removeprefix(TOKENIZER)), self._memo)
        return loaded

    def adopt(self, config: Config, loaded: dict[str, Tokeniser]) -> None:
        """Have what `load` gave, and what the engines of new pools are asked for themselves."""
        for encoding, tokeniser in loaded.items():
            self._local.setdefault(encoding, LocalTokens(tokeniser, self.counts, self._limit_s))
        for gone in self._remote.keys() - {pool.encoding for pool in config.pools}:
            self._remote.pop(gone).close()
        for pool in config.pools:
            encoding = pool.encoding
            if encoding and encoding not in self._local and encoding not in self._remote:
                self._remote[encoding] = EngineTokens(
                    encoding,
                    FORMS[dialect(pool.engine).tokenise_takes],
                    self._engines,
                    partial(self._sites, pool.name),
                    memo=self._memo,
                    counts=self.counts,
                    clock=self._clock,
                    limit_s=self._limit_s,
                )

    @property
    def memo_bytes(self) -> int:
        """Estimated memory of everything that is remembered of prompts."""
        return self._memo.size_bytes

    async def tokens_of(self, encoding: str, endpoint: Endpoint, body: bytes) -> TokenisedPrompt | None:
        """The token ids of a request; None where they could only be guessed, where no one tells them, or too late."""
        source = self._local.get(encoding) or self._remote.get(encoding)
        if source is None:
            return None
        began = time.perf_counter()
        try:
            prompt = read(endpoint, body)
            tokens = prompt.tokens if isinstance(prompt, IdsPrompt) else await source.tokens(prompt)
        except InexactError as refusal:
            self.counts.fallbacks[refusal.reason] += 1
            return None
        finally:
            self.counts.seconds += time.perf_counter() - began
        self.counts.prompts += 1
        return TokenisedPrompt(tokens, prompt.shape)

    async def disagreement(self, encoding: str, url: str, headers: Headers, model: str | None) -> str | None:
        """Where this encoding and a replica's own /tokenize part, in one sentence; None if they agree.

        None too for an encoding that is the engine's own, and for a replica that does not tell.
        """
        local = self._local.get(encoding)
        if local is None:
            return None
        return await disagreement(local.tokeniser, self._engines, Site(url, headers), model, self._limit_s)

    def forget(self, encoding: str) -> None:
        """For an engine's own encoding: a replica has started anew, and may have another chat template."""
        remote = self._remote.get(encoding)
        if remote is not None:
            remote.forget()

    def close(self) -> None:
        """End what is going on in the background."""
        for local in self._local.values():
            local.close()
        for remote in self._remote.values():
            remote.close()


def _load(pool: str, path: Path, memo: Memo) -> Tokeniser:
    try:
        return Tokeniser(path, memo)
    except TokeniserError as error:
        raise ConfigError(f"pool `{pool}`: tokens: {error}") from error
