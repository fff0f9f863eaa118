"""Which form of message content a chat template wants, text or a list of parts, read off its syntax tree; pure.

vLLM decides it in this way, so we have to: a template that loops over a message's content gets lists.
"""

from collections.abc import Iterator
from typing import Final

from jinja2 import nodes

_MESSAGES: Final = "messages"
_CONTENT: Final = "content"


class _UnreadableError(Exception):
    """The template assigns or loops in a way that is not followed."""


def wants_parts(tree: nodes.Template) -> bool:
    """Whether messages' content is to be a list of parts; where the template cannot be read, it is text."""
    try:
        return any(True for _ in _content_loops(tree))
    except _UnreadableError:
        return False


def _content_loops(tree: nodes.Template) -> Iterator[str]:
    """The loops over a message's content, by their variable."""
    messages = set(_message_names(tree))
    bound = _bound_parameters(tree, messages)
    for loop in tree.find_all(nodes.For):
        over = loop.iter
        named = over.name if isinstance(over, nodes.Name) else None
        names = bound.get(id(loop), frozenset((_CONTENT,)))
        if named in names or any(_is_content_of(over, message) for message in messages):
            yield _target(loop)


def _message_names(tree: nodes.Template) -> list[str]:
    """The variables of the loops over the messages, or over what was assigned from them."""
    lists = [_MESSAGES]
    for name in lists:  # grows while it is gone through
        for assignment in tree.find_all(nodes.Assign):
            if _is_variable(assignment.node, name):
                if not isinstance(assignment.target, nodes.Name):
                    raise _UnreadableError
                if assignment.target.name not in lists:
                    lists.append(assignment.target.name)
    loops = [loop for loop in tree.find_all(nodes.For) if any(_is_variable(loop.iter, name) for name in lists)]
    return [_target(loop) for loop in loops]


def _bound_parameters(tree: nodes.Template, messages: set[str]) -> dict[int, frozenset[str]]:
    """By loop inside a macro: the macro's parameters that some call gives a message's content."""
    bound: dict[int, frozenset[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        parameters = [argument.name for argument in macro.args]
        given = set()
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                named = [(keyword.key, keyword.value) for keyword in call.kwargs if isinstance(keyword, nodes.Keyword)]
                for name, value in (*zip(parameters, call.args, strict=False), *named):
                    if name in parameters and any(_is_content_of(value, message) for message in messages):
                        given.add(name)
        for loop in macro.find_all(nodes.For):
            if given or id(loop) not in bound:
                bound[id(loop)] = frozenset(given)
    return bound


def _target(loop: nodes.For) -> str:
    if not isinstance(loop.target, nodes.Name):
        raise _UnreadableError
    return loop.target.name


def _unwrapped(node: nodes.Node | None) -> nodes.Node | None:
    """What filters, tests and slices are applied to."""
    while True:
        sliced = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        if not (sliced or isinstance(node, (nodes.Filter, nodes.Test))):
            return node
        node = node.node  # type: ignore[union-attr]


def _is_variable(node: nodes.Node | None, name: str) -> bool:
    node = _unwrapped(node)
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _is_content_of(node: nodes.Node | None, message: str) -> bool:
    node = _unwrapped(node)
    if isinstance(node, nodes.Getitem):
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
        return key == _CONTENT and isinstance(node.node, nodes.Name) and _is_variable(node.node, message)
    if isinstance(node, nodes.Getattr):
        return node.attr == _CONTENT and isinstance(node.node, nodes.Name) and _is_variable(node.node, message)
    return False
