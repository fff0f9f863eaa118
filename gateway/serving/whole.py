"""What the whole gateway says, whichever of its processes is asked; does I/O where there are several."""

import msgspec

from gateway.routing.scoreboard import RequestRecord
from gateway.serving.explanation import explain_record
from gateway.serving.gateway import Gateway
from gateway.serving.prefixes.view import PrefixView, merged_views, prefix_view
from gateway.serving.process_figures import merged_figures
from gateway.serving.report import DECODER, ENCODER, Report, WorkerView, merged_reports, own_report
from gateway.serving.workers.frames import PrefixesWanted, Question, RecentWanted, ReportWanted, RequestWanted, Sibling

SILENT_PARENT = "the other workers' figures are left out: the parent process does not answer"


class Told(msgspec.Struct, frozen=True):
    """A request's explanation as JSON, and when the request came (seconds on the machine's clock)."""

    accepted_at: float
    explanation: bytes


_TOLD = msgspec.msgpack.Decoder(list[Told])
_PREFIXES = msgspec.msgpack.Decoder(PrefixView)


def own_answer(gateway: Gateway, question: Question) -> bytes:
    """What this process answers to another one."""
    match question:
        case ReportWanted():
            return ENCODER.encode(own_report(gateway))
        case RecentWanted():
            return ENCODER.encode(_recent(gateway, question.limit))
        case RequestWanted():
            return ENCODER.encode(_request(gateway, question.request_id))
        case PrefixesWanted():
            return ENCODER.encode(_prefixes(gateway))


async def whole_report(gateway: Gateway) -> Report:
    """All processes together; what this one knows counts where all know it alike."""
    own = own_report(gateway)
    if gateway.siblings is None:
        return own
    answers = await gateway.siblings.ask(ReportWanted(), ENCODER.encode(own))
    if answers is None:
        return msgspec.structs.replace(own, notices=[*own.notices, SILENT_PARENT])
    own = _present(own, answers.asker)
    reports = []
    for sibling in answers.others:
        if sibling.answer is None:
            own = _absent(own, sibling)
        else:
            reports.append(_present(DECODER.decode(sibling.answer), sibling))
    if answers.retired is not None:
        reports.append(DECODER.decode(answers.retired))
    whole = merged_reports([own, *reports])
    return msgspec.structs.replace(whole, figures=merged_figures([whole.figures, answers.parent]))


async def recent_requests(gateway: Gateway, limit: int) -> bytes:
    """Explanations of the latest requests as JSON, the newest first."""
    told = _recent(gateway, limit)
    if gateway.siblings is not None:
        told += await _told_by_others(gateway, RecentWanted(limit))
        told.sort(key=lambda one: -one.accepted_at)
    return b"[" + b",".join(one.explanation for one in told[:limit]) + b"]"


async def request_told(gateway: Gateway, request_id: str) -> bytes | None:
    """The explanation of one recent request as JSON."""
    told = _request(gateway, request_id)
    if not told and gateway.siblings is not None:
        told = await _told_by_others(gateway, RequestWanted(request_id))
    return max(told, key=lambda one: one.accepted_at).explanation if told else None


async def whole_prefixes(gateway: Gateway) -> PrefixView:
    """What was sampled of all processes' prompts."""
    others = [_PREFIXES.decode(answer) for answer in await _answers(gateway, PrefixesWanted())]
    return merged_views([_prefixes(gateway), *others])


async def _told_by_others(gateway: Gateway, question: Question) -> list[Told]:
    return [told for answer in await _answers(gateway, question) for told in _TOLD.decode(answer)]


async def _answers(gateway: Gateway, question: Question) -> list[bytes]:
    """What the other processes answer; none where this is the only one."""
    answers = None if gateway.siblings is None else await gateway.siblings.ask(question)
    return [] if answers is None else [one.answer for one in answers.others if one.answer is not None]


def _recent(gateway: Gateway, limit: int) -> list[Told]:
    return [_told(record, gateway.epoch) for record in gateway.router.recent(limit)]


def _request(gateway: Gateway, request_id: str) -> list[Told]:
    record = gateway.router.record(request_id)
    return [] if record is None else [_told(record, gateway.epoch)]


def _told(record: RequestRecord, epoch: float) -> Told:
    return Told(record.accepted_at, msgspec.json.encode(explain_record(record, epoch)))


def _prefixes(gateway: Gateway) -> PrefixView:
    return prefix_view(gateway.sampler, gateway.router, gateway.clock())


def _present(report: Report, sibling: Sibling) -> Report:
    """A worker's report, with what the parent knows of it."""
    late = sibling.age_s > 0
    rows = tuple(
        msgspec.structs.replace(row, restarts=sibling.restarts, state="silent" if late else row.state)
        for row in report.workers
    )
    said = [f"{_name(sibling)} does not answer: its figures are those of {sibling.age_s:.0f} s ago"] if late else []
    return msgspec.structs.replace(report, workers=rows, notices=[*report.notices, *said])


def _absent(report: Report, sibling: Sibling) -> Report:
    """Another worker's report, with a row for one that has none."""
    state = "silent" if sibling.state == "up" else sibling.state
    row = WorkerView(sibling.number, sibling.pid, state, restarts=sibling.restarts)
    why = "does not answer" if state == "silent" else "is being started"
    notices = [*report.notices, f"{_name(sibling)} {why}: its figures are left out"]
    return msgspec.structs.replace(report, workers=(*report.workers, row), notices=notices)


def _name(sibling: Sibling) -> str:
    return f"worker {sibling.number} (pid {sibling.pid})"
