"""The page of a report: whole, safe and the same each time."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
from split_traffic import Traffic, observe

from gateway.experiments.analysis import analyse
from gateway.experiments.page import page
from gateway.experiments.terms import ArmTerms, Terms

WILD = ("<script>alert(1)</script>", "$x_{1}$ & \"'")


def made(traffic: Traffic, names: tuple[str, str] = ("vllm-w4a8", "sglang-fp4")) -> str:
    terms = Terms(tuple(ArmTerms(name) for name in names))
    seen = replace(observe(traffic, np.random.default_rng(1), slower=0.3), arms=names)
    return page(analyse(f"test of {names[0]}", seen, terms), seen, terms)


def test_it_says_the_verdict_and_draws_four_plots() -> None:
    shown = made(Traffic(1500))
    assert "worse than vllm-w4a8 by" in shown
    svgs = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    assert len(svgs) == 4
    for svg in svgs:
        assert "currentColor" in svg
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= ids
        assert len(ElementTree.fromstring(svg)) > 0
    defined = re.findall(r'<(?:path|clipPath) id="([^"]+)"', shown)
    assert len(set(defined)) == len(defined)  # what one plot refers to is in no other


def test_it_needs_nothing_from_elsewhere() -> None:
    shown = made(Traffic(300))
    assert "<script" not in shown
    for reference in re.findall(r'(?:src|href)="([^"]*)"', shown):
        assert reference.startswith(("#", "data:"))
    assert "prefers-color-scheme: dark" in shown


def test_names_are_escaped() -> None:
    shown = made(Traffic(300), WILD)
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_the_same_report_gives_the_same_page() -> None:
    assert made(Traffic(300)) == made(Traffic(300))


def test_nothing_observed_is_a_page_too() -> None:
    shown = made(Traffic(0))
    assert "<svg" not in shown
    assert "has had no requests" in shown
