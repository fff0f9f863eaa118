"""Which templates get lists of content parts; the verdicts are vLLM 0.32's on the same sources."""

import pytest
from jinja2 import Environment

from gateway.tokens.content_format import wants_parts

LOOP = "{% for part in message.content %}{{ part.text }}{% endfor %}"
MACRO = "{% macro show(body, x=1) %}{% for part in body %}{{ part }}{% endfor %}{% endmacro %}"


def over(inner: str, messages: str = "messages") -> str:
    return "{% for message in " + messages + " %}" + inner + "{% endfor %}"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (over("{{ message.content }}"), False),
        (over(LOOP), True),
        (over("{% for part in message['content'] %}{% endfor %}"), True),
        (over("{% for part in message['content'] | list %}{% endfor %}"), True),
        (over("{% for part in message.content[1:] %}{% endfor %}"), True),
        (over("{% for part in message.text %}{% endfor %}"), False),
        (over("{% for part in other.content %}{% endfor %}"), False),
        (over(LOOP, "messages[1:]"), True),
        (over(LOOP, "messages | reverse"), True),
        ("{% set loop_messages = messages[1:] %}" + over(LOOP, "loop_messages"), True),
        ("{% set a = messages %}{% set b = a %}" + over(LOOP, "b"), True),
        (over(LOOP, "elsewhere"), False),
        (over("{% set content = message.content %}{% for part in content %}{% endfor %}"), True),
        ("{% for part in content %}{% endfor %}", True),
        (MACRO + over("{{ show(message.content) }}"), True),
        (MACRO + over("{{ show(body=message['content']) }}"), True),
        (MACRO + over("{{ show(message.content | trim) }}"), True),
        (MACRO + over("{{ show(1, message.content) }}"), False),
        (MACRO + over("{{ show(message.role) }}"), False),
        (MACRO + over("{{ other(message.content) }}"), False),
        (
            "{% macro m(content) %}{% for p in content %}{% endfor %}{% endmacro %}" + over("{{ m(message.role) }}"),
            False,
        ),
        (over("{% for name, part in message.content %}{% endfor %}"), False),
        ("{% for number, message in messages %}{% endfor %}{% for part in content %}{% endfor %}", False),
        ("{% set ns = namespace() %}{% set ns.all = messages %}" + over(LOOP), False),
        ("hello", False),
    ],
)
def test_verdicts(source: str, parts: bool) -> None:
    assert wants_parts(Environment(autoescape=False).parse(source)) is parts
