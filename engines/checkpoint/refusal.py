"""Why a checkpoint is not touched; pure."""


class CheckpointError(Exception):
    """What was asked cannot be done with this checkpoint; the message is one sentence, and says what is in the way."""
