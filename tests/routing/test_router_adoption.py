"""Stored blocks that follow what nobody announced: the prompts in flight tell where they stand."""

import pytest

from engines.cache_events import BlocksStored
from engines.reports import ModelCard, Usage
from gateway.routing.facts import ReplicaUp

BLOCK = 16
PROMPT = list(range(1000, 1100))
"""Six blocks and a rest; the engine has had the first three since before anybody listened."""


@pytest.fixture
def covered(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", encoding="tokenizer:x"), up=[])
    driver.up("r1", "r2", reports_cached_tokens=True)
    for name in ("r1", "r2"):
        driver.load(name, block_tokens=BLOCK)
        driver.synced(name)
    return driver


def ask(driver, ids, replica="r1", **more):
    return driver.route(" ".join(map(str, ids)), tokens=ids, pinned_replica=replica, **more)


def later_blocks(ids=PROMPT, start=3, end=6, **more):
    """Blocks of the prompt, said to follow one that is not known."""
    tokens = b"".join(one.to_bytes(4, "little") for one in ids[start * BLOCK : end * BLOCK])
    keys = tuple(b"key %d of %d" % (n, hash(tuple(ids))) for n in range(start, end))
    return BlocksStored(keys, b"from before", tokens, BLOCK, **more)


def adopted(driver, replica="r1"):
    """Blocks stated, and events that could not be placed."""
    view = driver.replica(replica).cache
    return view.stated_blocks, view.orphans


def test_blocks_go_where_the_prompt_in_flight_has_them(covered):
    decision = ask(covered, PROMPT)
    covered.said("r1", later_blocks())
    assert adopted(covered) == (3, 0)
    covered.first_token(decision, 50)
    covered.finish(decision, usage=Usage(100, 1, 3 * BLOCK))
    assert ask(covered, PROMPT).chosen.overlap == (96, 0, 0), "three by the hit, three by the event"


def test_what_follows_the_adopted_is_placed_too(covered):
    decision = ask(covered, PROMPT)
    covered.said("r1", later_blocks(end=4))
    covered.finish(decision, usage=Usage(100, 1, 3 * BLOCK))
    first = later_blocks(end=4)
    rest = later_blocks(start=4)
    covered.said("r1", BlocksStored(rest.hashes, first.hashes[-1], rest.tokens, BLOCK))
    assert adopted(covered) == (3, 0)
    assert ask(covered, PROMPT).chosen.overlap == (96, 0, 0)


def test_two_prompts_that_begin_alike_agree(covered):
    ask(covered, PROMPT)
    ask(covered, [*PROMPT, *range(50)])
    covered.said("r1", later_blocks())
    assert adopted(covered) == (3, 0)


@pytest.mark.parametrize("why", ["another beginning", "twice in one prompt", "salted", "another replica", "none"])
def test_blocks_whose_place_is_not_certain_are_orphans(covered, why):
    match why:
        case "another beginning":
            ask(covered, PROMPT)
            ask(covered, [7, *PROMPT[1:]])
        case "twice in one prompt":
            ask(covered, [*PROMPT[: 4 * BLOCK], *PROMPT[3 * BLOCK : 4 * BLOCK]])
        case "salted":
            ask(covered, PROMPT)
            ask(covered, PROMPT, salt="pepper")
        case "another replica":
            ask(covered, PROMPT, replica="r2")
        case "none":
            covered.finish(ask(covered, PROMPT))
    covered.said("r1", later_blocks())
    assert adopted(covered) == (0, 1)


@pytest.mark.parametrize("ids", [PROMPT[3 * BLOCK :], [1, *PROMPT], PROMPT[: 3 * BLOCK + 9]])
def test_the_place_is_a_whole_number_of_blocks_behind_a_beginning(covered, ids):
    """At the very beginning no parent is needed, between blocks nothing is stored, and half a block is none."""
    ask(covered, ids)
    covered.said("r1", later_blocks())
    assert adopted(covered) == (0, 1)


@pytest.mark.parametrize("more", [{"adapter": "lora"}, {"salt": "pepper"}])
def test_blocks_with_a_namespace_of_their_own_are_not_adopted(covered, more):
    ask(covered, PROMPT)
    covered.said("r1", later_blocks(**more))
    assert adopted(covered) == (0, 1)


def test_blocks_of_the_model_are_not_adopted_by_a_prompt_of_an_adapter(covered):
    covered.router.observe(ReplicaUp("r1", covered.now, (ModelCard("m"), ModelCard("lora", parent="m"))))
    covered.load("r1", block_tokens=BLOCK)
    ask(covered, PROMPT, adapter="lora")
    covered.said("r1", later_blocks())
    assert adopted(covered) == (0, 1)
