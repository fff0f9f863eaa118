"""The interface of a dialect: all that the gateway knows of one kind of engine; pure."""

from collections.abc import Mapping
from typing import Literal, Protocol

from engines.cache_events import EventBatch, EventSource
from engines.launch.command import LaunchCommand
from engines.launch.launcher import EVENT_PORTS, EventPorts, LaunchSpec
from engines.reports import (
    EngineCall,
    EngineDescription,
    EngineError,
    LoadReport,
    ModelCard,
    PrefillSettings,
)

Pages = Mapping[str, bytes]
"""Bodies of the pages that answered 200, by the path that was asked for."""


Continued = tuple[Mapping[str, object], Mapping[str, object]]
"""The final message of a chat, and the fields that make the engine go on with it."""

TokeniseFields = Literal["template", "chat"]
"""What `POST /tokenize` takes beside messages: the template's arguments, or a chat completion's own fields."""


class Dialect(Protocol):
    """One kind of engine. Methods never raise on what an engine sends: what cannot be read is None or empty."""

    name: str
    """The word in the config: `engine = "..."`."""
    health_path: str
    """A cheap health endpoint: 200 when up; must not generate tokens."""
    models_path: str
    tokenise_takes: TokeniseFields
    tells_continuation: bool
    """Whether `/tokenize` takes the fields of `continue_chat`, so that it shows whether a chat template heeds them."""
    load_paths: tuple[str, ...]
    """Pages for `read_load`, fetched at every poll."""
    description_paths: tuple[str, ...]
    """Pages for `describe`, fetched when a replica comes up and now and then."""

    def read_models(self, body: bytes) -> tuple[ModelCard, ...]:
        """The models of a `models_path` body."""

    def read_load(self, pages: Pages) -> LoadReport:
        """The load from whichever of `load_paths` answered."""

    def describe(self, pages: Pages) -> EngineDescription:
        """The replica's set-up from whichever of `description_paths` answered."""

    def read_event_sources(self, pages: Pages) -> tuple[EventSource, ...]:
        """Where the replica publishes KV-cache events, from whichever of `description_paths` answered."""

    def read_events(self, payload: bytes) -> EventBatch | None:
        """One message of an event source in neutral words; None for what is not a batch of events at all."""

    def read_error(self, status: int, body: bytes) -> EngineError:
        """An error response, or an error frame of a stream (the JSON after `data: `), in neutral words."""

    def request_id_header(self, request_id: str) -> tuple[str, str] | None:
        """The header that gives a request its id on this engine, or None where a header is not honoured."""

    def request_id_field(self, request_id: str) -> tuple[str, str] | None:
        """The top-level body field (name, value) that gives a request its id, or None where not needed."""

    def continue_chat(self, content: str, reasoning: str) -> Continued | None:
        """What lets a chat go on with an answer of which these are the beginning; None where it cannot."""

    def salt_field(self, path: str, salt: str) -> tuple[str, str] | None:
        """The top-level body field (name, value) that gives a prompt a cache of its own at an inference endpoint, or
        None where the engine takes no salt there.
        """

    def abort_call(self, request_id: str) -> EngineCall | None:
        """The call that aborts a request at once; None where closing the connection does it."""

    def launch_flags(self, settings: PrefillSettings) -> tuple[str, ...]:
        """Command-line flags for the settings; () for those that are None."""

    def measuring_flags(self, event_ports: EventPorts | None = EVENT_PORTS, topic: str = "") -> tuple[str, ...]:
        """Command-line flags that make the engine report what prefixgate measures; None: no KV events."""

    def launch_command(self, spec: LaunchSpec) -> LaunchCommand:
        """What starts a replica as the spec says, with all that makes it report what prefixgate measures."""

    def warnings(self, description: EngineDescription, wished: PrefillSettings) -> tuple[str, ...]:
        """One sentence each: what is missing or differs from the wish, and the flag to add."""

    def answer_warnings(self, answer: bytes) -> tuple[str, ...]:
        """One sentence for each flag that an answer to a chat shows to be missing, as far as no page tells."""
