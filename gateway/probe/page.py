"""A comparison as one self-contained HTML page; pure."""

from html import escape
from typing import Final

from gateway.probe.comparison import Comparison
from gateway.probe.pairing import Pair, Side

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd;
text-align: left } summary { cursor: pointer; padding: .3rem 0 } .sides { display: grid; gap: 1rem;
grid-template-columns: 1fr 1fr } pre { white-space: pre-wrap; background: #f6f6f6; padding: .7rem; margin: 0;
overflow-wrap: anywhere } .right { color: #08702c } .wrong { color: #a4161a } .thoughts { color: #777 }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd } pre { background: #22252b }
td, th { border-color: #333 } .right { color: #5fd38d } .wrong { color: #ff8a8a } }
"""


def page(comparison: Comparison) -> str:
    """Scores, then every question with both answers; those that differ are open."""
    names = tuple(score.target for score in comparison.scores)
    scores = "".join(
        f"<tr><td>{escape(one.target)}<td>{one.right}/{comparison.compared}<td>{one.accuracy:.1%}"
        f"<td>{one.low:.1%} to {one.high:.1%}<td>{one.cut}<td>{one.unanswered}"
        for one in comparison.scores
    )
    head = "".join(f"<th>{name}" for name in ("target", "right", "accuracy", "95 % interval", "cut off", "unanswered"))
    return (
        f'<!doctype html><meta charset="utf-8"><title>prefixgate probe</title><style>{_STYLE}</style>'
        f"<h1>{escape(names[0])} and {escape(names[1])}</h1><p><b>{escape(comparison.sentence)}</b>"
        f"<p>Same answer: {comparison.same_answer}/{comparison.compared}; identical text: "
        f"{comparison.same_text}/{comparison.compared}; p = {comparison.p_value:.3g} (McNemar, exact)"
        f"<table><tr>{head}{scores}</table>" + "".join(_pair(one) for one in comparison.pairs)
    )


def _pair(pair: Pair) -> str:
    parts = pair.divergence
    where = (
        "identical"
        if parts is None
        else f"first difference at {parts.unit} {parts.at}: {parts.left!r} against {parts.right!r}"
    )
    opened = "" if pair.same_answer and pair.left.right else " open"
    summary = f"{escape(pair.id)}: {_mark(pair.left)} {_mark(pair.right)}, {escape(where)}"
    return (
        f"<details{opened}><summary>{summary}</summary>"
        f"<p>{escape(pair.question)} <b>{escape(pair.answer)}</b>"
        f'<div class="sides">{_side(pair.left)}{_side(pair.right)}</div></details>'
    )


def _mark(side: Side) -> str:
    return f'<span class="{"right" if side.right else "wrong"}">{escape(side.number)}</span>'


def _side(side: Side) -> str:
    thoughts = f'<span class="thoughts">{escape(side.thoughts)}</span>' if side.thoughts else ""
    return f"<pre>{thoughts}{escape(side.text)}</pre>"
