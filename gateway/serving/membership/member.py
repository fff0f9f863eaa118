"""One replica that there is to be; pure."""

import msgspec

FILE, API, DISCOVERY = "file", "api", "discovery"


class Member(msgspec.Struct, frozen=True):
    """One replica that there is to be. `origin` says by whose word: the file's, the API's, or a discovery's."""

    name: str
    pool: str
    url: str
    origin: str = FILE
    draining: bool = False
