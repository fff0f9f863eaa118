"""The configuration file: what it may say, and that every mistake in it is named."""

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, build, load, parse

EXAMPLE = """
[server]
host = "127.0.0.1"
port = 8080
admin_port = 8081            # dashboard, admin API and /metrics of the gateway; may equal port

[routing]
policy = "ttft"              # ttft | prefix | least-load | round-robin | random | session

[[pools]]
name = "vllm-w4a8"
engine = "vllm"
model = "deepseek-v4-flash"
gpus_per_replica = 2
replicas = ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
[pools.prefill]
chunk_tokens = 8192

[[pools]]
name = "sglang-fp4"
engine = "sglang"
model = "deepseek-v4-flash"
gpus_per_replica = 2
replicas = ["http://10.0.1.1:30000"]
[pools.prefill]
chunk_tokens = 16384

[[experiments]]
name = "w4a8-vs-fp4"
unit = "prefix-family"       # prefix-family | session | tenant | request
arms = { vllm-w4a8 = 0.5, sglang-fp4 = 0.5 }

[state]
redis_url = "redis://…"      # optional: several gateways share what they learn
"""
POOL = '[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["http://a:1"]\n'


def test_the_example_of_the_contract() -> None:
    config = parse(EXAMPLE)
    assert (config.server.host, config.server.port, config.server.admin) == ("127.0.0.1", 8080, 8081)
    assert config.routing.policy == "ttft"
    vllm, sglang = config.pools
    assert (vllm.name, vllm.engine, vllm.model, vllm.gpus_per_replica) == ("vllm-w4a8", "vllm", "deepseek-v4-flash", 2)
    assert [replica.name for replica in vllm.spec().replicas] == ["vllm-w4a8-0", "vllm-w4a8-1"]
    assert vllm.spec().replicas[1].url == "http://10.0.0.2:8000"
    assert vllm.spec().prefill.chunk_tokens == 8192
    assert sglang.prefill.settings().chunk_tokens == 16384
    [experiment] = config.experiments
    assert (experiment.unit, experiment.arms) == ("prefix-family", {"vllm-w4a8": 0.5, "sglang-fp4": 0.5})
    assert config.notices() == []


def test_the_annotated_example_loads() -> None:
    deploy = Path(__file__).parents[1] / "deploy" / "gateway.toml"
    config = load(deploy)
    defaults = build({"pools": [{"name": "p", "engine": "vllm", "replicas": ["http://a:1"]}]})
    assert config.pools
    for section in ("routing", "timeouts", "polling", "journal"):
        assert getattr(config, section) == getattr(defaults, section), "the example states the defaults"
    assert config.server.max_body_bytes == defaults.server.max_body_bytes


def test_a_pool_is_enough() -> None:
    config = parse(POOL)
    assert (config.server.port, config.server.admin) == (8080, 8081)
    assert config.pools[0].spec().model is None
    assert config.notices() == []


def test_a_path_is_enough_for_a_journal() -> None:
    journal = parse(POOL + '[journal]\npath = "x"\n').journal
    assert (journal.path, journal.salt_env, journal.max_bytes, journal.keep) == ("x", None, 256 * 1024 * 1024, 3)
    assert parse(POOL).journal.path is None


def test_the_admin_port_follows_the_port() -> None:
    pool = {"name": "p", "engine": "vllm", "replicas": ["http://a:1"]}

    def admin(server: dict[str, int]) -> int:
        return build({"pools": [pool], "server": server}).server.admin

    assert admin({"port": 9000}) == 9001
    assert admin({"port": 0}) == 0
    assert admin({"port": 9000, "admin_port": 9000}) == 9000
    assert admin({"port": 9000, "admin_port": 0}) == 0


URLS = ("http://a", "https://a:8443/base/path", "http://10.0.0.1:8000/", "http://[::1]:30000")


@pytest.mark.parametrize("url", URLS)
def test_urls_that_will_do(url: str) -> None:
    [replica] = parse(POOL.replace("http://a:1", url)).pools[0].spec().replicas
    assert replica.url == url.rstrip("/")


def pools(**changes: str) -> str:
    """The pool with values (TOML) replaced or added."""
    values = {"name": '"p"', "engine": '"vllm"', "replicas": '["http://a:1"]', **changes}
    return "[[pools]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items() if value)


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bad TOML": ("[server\n", ("not valid TOML", "line 1")),
    "a key twice": (POOL + 'name = "q"\n', ("not valid TOML",)),
    "nothing": ("", ("missing", "pools")),
    "no pool": ("pools = []", ("at least one [[pools]]",)),
    "unknown table": (POOL + "[servers]\n", ("`servers`", "top level", "did you mean `server`?")),
    "unknown key in server": (POOL + "[server]\nprot = 1\n", ("`prot`", "[server]", "`port`?")),
    "unknown key in routing": (POOL + '[routing]\npolcy = "ttft"\n', ("`polcy`", "[routing]", "`policy`?")),
    "unknown key in timeouts": (POOL + "[timeouts]\nconnect = 1\n", ("[timeouts]", "`connect_s`?")),
    "unknown key in polling": (POOL + "[polling]\ninterval = 1\n", ("[polling]", "`interval_s`?")),
    "unknown key in pools": (pools(replica="[]"), ("`replica`", "[pools]", "`replicas`?")),
    "unknown key in prefill": (POOL + "[pools.prefill]\nchunk = 1\n", ("[pools.prefill]", "`mixed_chunk`?")),
    "unknown key in experiments": (
        POOL + '[[experiments]]\nname = "e"\narm = {}\n',
        ("`arm`", "[experiments]", "`arms`?"),
    ),
    "unknown key in state": (POOL + '[state]\nredis = "x"\n', ("[state]", "`redis_url`?")),
    "a Redis that is none": (POOL + '[state]\nredis_url = "http://a:1"\n', ("redis_url", "redis://HOST:PORT")),
    "unknown key near none": (POOL + "[server]\nzzzzzz = 1\n", ("`zzzzzz`", "valid: admin_open_metrics, admin_port")),
    "wrong type of table": (POOL + "[[server]]\n", ("server", "array")),
    "a value for a table": ("server = 5\n" + POOL, ("server", "int")),
    "a table for a list": ('[pools]\nname = "p"\n', ("pools", "array")),
    "a text for a number": (POOL + '[server]\nport = "8080"\n', ("`server.port`", "int")),
    "a flag for a number": (POOL + "[server]\nport = true\n", ("`server.port`", "bool")),
    "a number for a text": (pools(name="7"), ("`pools[0].name`", "str")),
    "a text for a list": (pools(replicas='"http://a:1"'), ("`pools[0].replicas`", "array")),
    "missing name": (pools(name=""), ("`name`", "pools[0]")),
    "missing engine": (pools(engine=""), ("`engine`", "pools[0]")),
    "missing replicas": (pools(replicas=""), ("pool `p`", "replicas must list at least one URL")),
    "missing arms": (POOL + '[[experiments]]\nname = "e"\n', ("`arms`", "experiments[0]")),
    "unknown policy": (POOL + '[routing]\npolicy = "tttf"\n', ("policy `tttf`", "`ttft`?")),
    "unknown policy near none": (POOL + '[routing]\npolicy = "zzz"\n', ("valid: least-load, prefix",)),
    "unknown engine": (pools(engine='"vlm"'), ("pool `p`", "engine `vlm`", "`vllm`?")),
    "unknown unit": (
        POOL + '[[experiments]]\nname = "e"\narms = {p = 1}\nunit = "requests"\n',
        ("experiment `e`", "unit `requests`", "`request`?"),
    ),
    "unknown arm": (POOL + '[[experiments]]\nname = "e"\narms = {q = 1}\n', ("experiment `e`", "arm `q`", "p")),
    "negative weight": (POOL + '[[experiments]]\nname = "e"\narms = {p = -1}\n', ("weight of `p`", "negative")),
    "weight that is none": (POOL + '[[experiments]]\nname = "e"\narms = {p = nan}\n', ("weight of `p`",)),
    "two pools of a name": (POOL + POOL.replace("a:1", "b:1"), ("pool `p`", "two of that name")),
    "a URL twice in a pool": (pools(replicas='["http://a:1", "http://a:1/"]'), ("http://a:1/", "listed twice")),
    "a URL twice in two pools": (POOL + POOL.replace('"p"', '"q"'), ("pool `q`", "listed twice")),
    "no replicas": (pools(replicas="[]"), ("pool `p`", "at least one URL")),
    "a name with a space": (pools(name='"a b"'), ("pool `a b`", "letters")),
    "an empty name": (pools(name='""'), ("letters",)),
    "no GPUs": (pools(gpus_per_replica="0"), ("gpus_per_replica",)),
    "no chunk": (POOL + "[pools.prefill]\nchunk_tokens = 0\n", ("prefill.chunk_tokens",)),
    "port too large": (POOL + "[server]\nport = 70000\n", ("port", "65535")),
    "admin port too large": (POOL + "[server]\nport = 65535\n", ("admin_port", "65536")),
    "no body": (POOL + "[server]\nmax_body_bytes = 0\n", ("max_body_bytes",)),
    "tiny blocks": (POOL + "[routing]\nblock_bytes = 1\n", ("block_bytes",)),
    "no attempts": (POOL + "[routing]\nmax_attempts = 0\n", ("max_attempts",)),
    "a journal without a place": (POOL + "[journal]\nkeep = 1\n", ("[journal] needs a path",)),
    "a journal in no place": (POOL + '[journal]\npath = ""\n', ("[journal] path", "empty")),
    "a salt without a name": (POOL + '[journal]\npath = "x"\nsalt_env = ""\n', ("[journal] salt_env", "empty")),
    "a tiny journal": (POOL + '[journal]\npath = "x"\nmax_bytes = 10\n', ("[journal] max_bytes", "65536")),
    "a negative number of journals": (POOL + '[journal]\npath = "x"\nkeep = -1\n', ("[journal] keep", "0")),
    "unknown key in journal": (POOL + '[journal]\nfile = "x"\n', ("`file`", "[journal]")),
    "no time to connect": (POOL + "[timeouts]\nconnect_s = 0\n", ("connect_s", "above 0")),
    "negative time": (POOL + "[timeouts]\nfirst_byte_s = -1\n", ("first_byte_s", "above 0")),
    "a time that is none": (POOL + "[timeouts]\nidle_s = nan\n", ("idle_s",)),
    "endless time": (POOL + "[timeouts]\nidle_s = inf\n", ("idle_s",)),
    "no interval": (POOL + "[polling]\ninterval_s = 0\n", ("interval_s",)),
    "no time to poll": (POOL + "[polling]\ntimeout_s = 0\n", ("timeout_s",)),
    "endless interval": (POOL + "[polling]\ninterval_s = inf\n", ("interval_s",)),
} | {
    f"URL {url}": (pools(replicas=f'["{url}"]'), ("pool `p`", "is not an http(s)://host:port URL"))
    for url in (
        "",
        "10.0.0.1:8000",
        "localhost:8000",
        "ftp://a:1",
        "http://",
        "http://:8000",
        "http://a:port",
        "http://a:99999",
        "http://a:0",
        "http://a:1?x=1",
        "http://a:1/#x",
        "http://user:secret@a:1",
        "http://[::1:8000",
        "http://a b:1",
        "http://a:1/\\n",
    )
}


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_named_in_one_line(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "$" not in message


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "gateway.toml"
    good.write_text(EXAMPLE, encoding="utf-8")
    assert isinstance(load(good), Config)
    broken = tmp_path / "broken.toml"
    broken.write_text("[server]\nprot = 1\n")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, words in (
        (broken, "unknown key `prot`"),
        (binary, "cannot be read"),
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            load(path)
        assert str(raised.value).startswith(f"{path}: ")
