"""The documentation says what is: tree, settings, metrics, commands, example configuration."""

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from gateway.cli import run
from gateway.config import Config, build, load
from gateway.routing.policies import POLICIES
from gateway.serving.gateway import Gateway
from gateway.serving.metrics import registry
from gateway.serving.report import own_report

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree_paths() -> list[str]:
    """Every file and folder that the README's tree names, as paths from the root."""
    block = README.split("## Where things live")[1].split("```")[1]
    folders: list[tuple[int, str]] = []
    paths = []
    for line in block.strip("\n").splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        while folders and folders[-1][0] >= indent:
            folders.pop()
        parent = "".join(folder for _, folder in folders)
        for name in names:
            if name.endswith("/"):
                folders.append((indent, name))
            if re.fullmatch(r"[\w./]+", name):
                paths.append(parent + name)
    return paths


def test_the_tree_is_the_real_tree() -> None:
    paths = tree_paths()
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
    folders = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders <= set(paths)


def test_every_setting_is_documented() -> None:
    table = README.split("## Configuration")[1].split("### Policies")[0]
    sections = msgspec.structs.fields(Config)
    assert len(sections) > 5
    for section in sections:
        assert f"[{section.name}]" in table
        inner = getattr(section.type, "item_type", section.type)
        for name in getattr(inner, "__struct_encode_fields__", ()):
            assert f"`{name}`" in table or f"[pools.{name}]" in table, f"[{section.name}] {name}"


def test_every_policy_is_documented() -> None:
    table = README.split("### Policies")[1].split("### How")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(POLICIES)


def test_every_metric_is_documented() -> None:
    table = README.split("## Metrics")[1].split("## HTTP")[0]
    config = build({"pools": [{"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}]})
    families = [family.name for family in registry(own_report(Gateway(config))).collect()]
    names = [name for name in families if name.startswith("prefixgate_")]
    assert len(names) > 35
    for name in names:
        assert re.search(rf"`{name.removeprefix('prefixgate_')}(_total)?(\{{[\w,]+\}})?`", table), name


def test_the_example_configuration_loads() -> None:
    config = load(ROOT / "deploy" / "gateway.toml")
    assert [pool.engine for pool in config.pools] == ["vllm", "sglang"]


PAGES = [ROOT / "README.md", *sorted((ROOT / "deploy" / "docs").glob("*.md"))]


def commands() -> list[list[str]]:
    """The commands of code blocks and tables of all pages, once each; what their arguments name need not be there."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES).replace("\\\n", " ")
    pairs = re.findall(r"^(prefixgate .*)$|`(prefixgate [^`]+)`", text, re.MULTILINE)
    found = [shlex.split(block or table, comments=True)[1:] for block, table in pairs]
    return [list(command) for command in dict.fromkeys(map(tuple, found))]


def anchors(page: Path) -> set[str]:
    """What links may name of a page, as forges make it of its headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def test_the_readme_leads_to_every_page() -> None:
    for page in PAGES[1:]:
        assert f"](deploy/docs/{page.name}" in README, page


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_of_the_readme_is_known(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Appending --help makes the parser accept or refuse the options without running anything."""
    with pytest.raises(SystemExit) as ended:
        run([*arguments, "--help"])
    assert ended.value.code == 0
    assert "example: prefixgate" in capsys.readouterr().out


def test_make_targets_are_real() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z-]+)", README)) - {"help"}
    assert {"demo", "test", "test-vllm"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:.*##", makefile, re.MULTILINE), target
