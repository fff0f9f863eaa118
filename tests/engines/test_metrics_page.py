"""The page reader against prometheus_client, which writes and reads the same format in full."""

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from engines.metrics_page import Sample, peak, read_samples, total

FIXTURES = Path(__file__).parents[1] / "fixtures"
# A slow machine is no defect.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@pytest.mark.parametrize("folder", ["vllm-0.25.0", "vllm-0.32.0", "sglang-0.5.16"])
def test_reads_every_sample_of_a_real_page_as_the_full_parser_does(folder: str) -> None:
    page = (FIXTURES / folder / "metrics.txt").read_bytes()
    families = text_string_to_metric_families(page.decode())
    expected = [sample for family in families for sample in family.samples]
    read = read_samples(page, {sample.name for sample in expected})
    assert len(read) == len(expected) > 300
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in read}
    for sample in expected:
        assert same(found[sample.name, tuple(sorted(sample.labels.items()))], sample.value)


@patient
@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), FLOATS), max_size=5, unique_by=lambda x: x[0])
)
def test_label_values_of_any_text_come_back(series: list[tuple[str, float]]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("engine:load", "load", ["word"], registry=registry)
    for word, value in series:
        gauge.labels(word).set(value)
    read = {s.labels["word"]: s.value for s in read_samples(generate_latest(registry), ["engine:load"])}
    assert read.keys() == dict(series).keys()
    assert all(same(read[word], value) for word, value in series)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"n 1", 1.0),
        (b"n\t 2.5e3", 2500.0),
        (b"n{} -3", -3.0),
        (b"n +Inf", math.inf),
        (b"n -Inf", -math.inf),
        (b"n 4 1700000000000", 4.0),
        (b"n 5\r", 5.0),
        (b'n 6 # {trace_id="x"} 1', 6.0),
    ],
)
def test_accepts_the_variants_of_a_sample_line(line: bytes, value: float) -> None:
    assert read_samples(b"# TYPE n gauge\n" + line + b"\n", ["n"]) == [Sample("n", {}, value)]


@pytest.mark.parametrize(
    "line",
    [
        b"n", b"n ", b"n x", b"n 1_000", b"n{", b'n{a="b" 1', b'n{a="b} 1', b"nn 1", b"# n 1", b" n 1", b"m 1",
        b"n_total 1", b"n{a=\n} 1",
    ],
)  # fmt: skip
def test_skips_lines_that_are_not_the_wanted_sample(line: bytes) -> None:
    assert read_samples(line + b"\nn 7", ["n"]) == [Sample("n", {}, 7.0)]


def test_braces_commas_and_escapes_in_label_values() -> None:
    page = rb'n{a="}, b=\"1\"", c="\\n\n",d="\x", e=""} 8'
    assert read_samples(page, ["n"]) == [
        Sample("n", {"a": '}, b="1"', "c": "\\n\n", "d": r"\x", "e": ""}, 8.0),
    ]


def test_no_names_no_samples() -> None:
    assert read_samples(b"n 1\n{ 2\n", []) == []


def test_a_hostile_page_costs_linear_time() -> None:
    # With backtracking these would never end.
    for line in (
        b'n{a="' + b"\\" * 200_001,
        b"n{" + b'a="b",' * 40_000,
        b"n" + b" " * 200_000,
        b'n{"' + b'"' * 200_000,
    ):
        assert read_samples(line + b"\nn 9\n", ["n"]) == [Sample("n", {}, 9.0)]


@patient
@given(st.binary(max_size=400))
def test_no_bytes_raise(page: bytes) -> None:
    assert all(s.name == "n" for s in read_samples(page + b"\nn{" + page + b"} 1\nn " + page, ["n"]))


def test_total_and_peak_prefer_the_first_name_that_has_finite_values() -> None:
    samples = read_samples(b'new NaN\nold{r="0"} 1\nold{r="1"} 3\nold{r="2"} Inf\n', ["new", "old"])
    assert total(samples, "new", "old") == 4.0
    assert peak(samples, "new", "old") == 3.0
    assert total(samples, "new") is None
    assert peak(samples, "absent") is None
