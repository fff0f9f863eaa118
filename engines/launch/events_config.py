"""The value of `--kv-events-config`, which both engines read alike; pure."""

import msgspec

from engines.launch.launcher import EventPorts


def events_config(ports: EventPorts | None, topic: str, **first: bool) -> str | None:
    """The JSON, `first` at its head; None for no events.

    The endpoints name no host: engines bind only those, and connect to all others.
    """
    if ports is None:
        return None
    endpoint, replay_endpoint = (f"tcp://*:{port}" for port in ports)
    config = {**first, "publisher": "zmq", "endpoint": endpoint, "replay_endpoint": replay_endpoint}
    return msgspec.json.encode(config | ({"topic": topic} if topic else {})).decode()
