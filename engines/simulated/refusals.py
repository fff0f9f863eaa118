"""Why an engine refuses a request, before a dialect puts it into its own words; pure."""

from dataclasses import dataclass
from typing import Literal

RefusalKind = Literal["validation", "invalid", "unknown_model", "not_found", "overloaded", "fault"]


@dataclass(slots=True, eq=False)  # not frozen: the interpreter writes the traceback into it
class Refusal(Exception):  # noqa: N818 - raised by readers of bodies, but also handed on as a value
    """An HTTP status, a message, and the parameter at fault. `validation` is a field of the wrong type or missing."""

    status: int
    kind: RefusalKind
    message: str
    param: str | None = None


def invalid_field(field: str, problem: str, message: str, value: object = None) -> Refusal:
    """A field that is missing or of the wrong type, in the words of the engines' validator."""
    detail = {"type": problem, "loc": f"body.{field}", "msg": message, "input": value}
    return Refusal(400, "validation", f"1 validation error:\n  {detail}", f"body.{field}")
