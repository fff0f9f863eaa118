"""`[[experiments]]`: what is read, and what each mistake is told as."""

import pytest

from gateway.config import ConfigError, parse
from gateway.config.changes import changes
from gateway.config.experiments import METRICS, ExperimentConfig
from gateway.experiments.metrics import PRIMARY

POOLS = "".join(f'[[pools]]\nname = "{name}"\nengine = "vllm"\nreplicas = ["http://{name}:1"]\n' for name in "pq")
WHOLE = """
[[experiments]]
name = "e"
unit = "session"
control = "old"
traffic = 0.2
ramp_s = 600
warm_up_s = 30
family_tokens = 4096
metric = "ttft_p90"
tie_percent = 2
start = "manual"
[experiments.arms]
old = { pools = ["p"], weight = 2 }
new = { replicas = ["http://q:1/"], policy = "prefix", chunk_tokens = 16384 }
q = 0.5
[experiments.eligible]
models = ["m"]
tenants = ["t"]
header = "X-Beta"
header_value = "1"
min_prompt_tokens = 1000
max_prompt_tokens = 100000
[experiments.guardrails]
error_rate = 0.05
"""


def test_all_of_it_reaches_the_router() -> None:
    [experiment] = parse(POOLS + WHOLE).experiments
    running = experiment.running(7.0, stopped=["new"])
    old, new, q = running.arms
    assert (old.pools, old.weight, new.weight, q.pools, q.weight) == (frozenset("p"), 2, 1, frozenset("q"), 0.5)
    assert (new.replicas, new.policy, new.chunk_tokens) == (frozenset({"http://q:1"}), "prefix", 16384)
    assert [arm.stopped for arm in running.arms] == [False, True, False]
    assert (running.control, running.traffic, running.ramp_s, running.began_at) == ("old", 0.2, 600, 7.0)
    assert (running.eligible.header, running.eligible.header_value) == ("x-beta", "1")
    assert experiment.guardrails is not None
    assert (experiment.guardrails.error_rate, experiment.start) == (0.05, "manual")


def test_the_metrics_are_those_of_the_statistics() -> None:
    assert METRICS == PRIMARY


def test_a_unit_that_halves_caches_is_told_of() -> None:
    text = POOLS + '[[experiments]]\nname = "e"\narms = { p = 1, q = 1 }\nunit = '
    [notice] = parse(text + '"request"').notices()
    assert "hit rates fall in all of them" in notice
    assert parse(text + '"tenant"').notices() == []


def test_experiments_change_without_a_restart() -> None:
    wanted = parse(POOLS + WHOLE)
    assert changes(parse(POOLS), wanted).changed == ("experiments",)
    assert changes(parse(POOLS), wanted).config.experiments == wanted.experiments


def test_what_is_judged_otherwise_is_asked_alike() -> None:
    one = ExperimentConfig("e", {"a": 1.0})
    assert one.asks_alike(ExperimentConfig("e", {"a": 1.0}, traffic=0.5, metric="hit_rate"))
    assert not one.asks_alike(ExperimentConfig("e", {"a": 2.0}))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("arms = {}", "it has no arms"),
        ("arms = { p = 0 }", "weight above 0"),
        ("arms = { p = -1 }", "weight of `p` must not be negative"),
        ("arms = { z = 1 }", "arm `z` is not known"),
        ("arms = { z = { pools = ['x'] } }", "arm `z`: pool `x`"),
        ("arms = { z = { policy = 'prefx' } }", "did you mean `prefix`?"),
        ("arms = { z = { weigth = 1 } }", "did you mean `weight`?"),
        ("arms = { z = { chunk_tokens = 0 } }", "chunk_tokens must be above 0"),
        ("arms = { 'a b' = { pools = ['p'] } }", "name of an arm"),
        ("arms = { p = 1 }\ncontrol = 'q'", "control `q` is not known"),
        ("arms = { p = 1 }\nunit = 'requests'", "did you mean `request`?"),
        ("arms = { p = 1 }\nstart = 'never'", "start `never` is not known"),
        ("arms = { p = 1 }\nmetric = 'ttft'", "metric `ttft` is not known"),
        ("arms = { p = 1 }\ntraffic = 1.5", "traffic must be between 0 and 1"),
        ("arms = { p = 1 }\nramp_s = -1", "ramp_s must be between"),
        ("arms = { p = 1 }\nwarm_up_s = nan", "warm_up_s must be between"),
        ("arms = { p = 1 }\ntie_percent = 0", "tie_percent must be between"),
        ("arms = { p = 1 }\nfamily_tokens = 0", "family_tokens must be between"),
        ("arms = { p = 1 }\neligible = { header_value = 'x' }", "header_value needs eligible.header"),
        ("arms = { p = 1 }\neligible = { header = 'a b' }", "must be the name of a header"),
        ("arms = { p = 1 }\neligible = { min_prompt_tokens = 9, max_prompt_tokens = 8 }", "must not be below"),
        ("arms = { p = 1 }\nguardrails = { every_s = 0 }", "every_s must be between"),
        ("arms = { p = 1 }\nguardrails = { errors = 1 }", "did you mean `error_rate`?"),
        ("arms = { p = 1 }\n[[experiments]]\nname = 'e'\narms = { q = 1 }", "there are two of that name"),
    ],
)
def test_each_mistake_has_its_sentence(lines: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{POOLS}[[experiments]]\nname = 'e'\n{lines}\n")
    assert words in str(caught.value)


def test_a_price_must_be_one() -> None:
    with pytest.raises(ConfigError, match="usd_per_gpu_hour"):
        parse(POOLS + "usd_per_gpu_hour = -1\n")
    with pytest.raises(ConfigError, match=r"\[state\] path"):
        parse(POOLS + "[state]\npath = ''\n")
