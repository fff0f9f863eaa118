"""Why a command cannot be followed; pure."""


class PlanError(Exception):
    """The command cannot be followed; the message is a sentence, `status` and `code` are an HTTP answer's."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
