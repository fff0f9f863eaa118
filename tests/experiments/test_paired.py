"""The ratio of paired times: its interval holds the true ratio as often as it says."""

from random import Random

from gateway.experiments.paired import FEWEST, paired_ratio


def test_the_interval_covers_the_true_ratio() -> None:
    rng = Random(1)
    covered = 0
    for _ in range(200):
        first = [rng.lognormvariate(0, 1) for _ in range(60)]
        second = [1.2 * one * rng.lognormvariate(0, 0.3) for one in first]
        ratio = paired_ratio(first, second)
        assert ratio is not None
        assert ratio.low <= ratio.median <= ratio.high
        covered += ratio.low <= 1.2 <= ratio.high
    assert 184 <= covered <= 200  # 92 to 100 %: discrete order statistics cover at least 95 %


def test_in_words() -> None:
    slower = paired_ratio([1.0] * 20, [1.5] * 20)
    assert slower is not None
    assert slower.sentence == "slower by 50.0 % (95 % interval 1.500 to 1.500, 20 pairs)"
    same = paired_ratio([1.0] * 20, [0.9, 1.1] * 10)
    assert same is not None
    assert same.sentence.startswith("no difference found: the ratio is")
    faster = paired_ratio([2.0] * 20, [1.0] * 20)
    assert faster is not None
    assert faster.sentence.startswith("faster by 50.0 %")


def test_too_few_pairs_say_nothing() -> None:
    assert paired_ratio([1.0] * (FEWEST - 1), [1.0] * (FEWEST - 1)) is None
    assert paired_ratio([0.0] * 50, [1.0] * 50) is None
