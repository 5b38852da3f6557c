"""Every command in README and docs is executed, or at least read, and prints in substance what its page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documented_commands import NOT_EXECUTED, PAGES, ROOT, blocks, calls, differences, not_executed, options, read, verb

import edge_mtp

TINY = Path(edge_mtp.__file__).parent / "tiny"
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block, command) for block in BLOCKS for command in block.commands]

# What a page measures in minutes, a test tries in seconds, on this machine in place of a phone. But for rounds, an
# option that the page gives stays.
EDGE_MTP = """\
#!{python}
import sys

SMALLER = {{
    "bench": {{"--limit": "2", "--rounds": "2", "--workload": "tiny"}},
    "eval": {{"--limit": "2", "--suite": "iid"}},
    "quality": {{"--limit": "2"}},
}}
words = ["host" if word == "pixel" else word for word in sys.argv[1:]]
for option, value in SMALLER.get(words[0], {{}}).items():
    if option == "--rounds" or option not in words:
        words += [option, value]
sys.argv[1:] = words
from edge_mtp.cli import main

sys.exit(main())
"""
PYTHON = """\
#!{python}
import os
import sys

words = sys.argv[1:]
if words and words[0].startswith("benchmarks/"):
    words[0] = os.path.join({root!r}, words[0])
if words and words[0].endswith("controller.py"):
    words += ["--texts", "2"]
if words and words[0].endswith("accelerator_choice.py"):
    words += ["--devices", "2"]
os.execv({python!r}, [{python!r}, *words])
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with `edge-mtp` and `python` on the path."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("edge-mtp", EDGE_MTP), ("python", PYTHON)):
        (folder / name).write_text(text.format(python=sys.executable, root=str(ROOT)), "utf-8")
        (folder / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**env, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, programs: dict[str, str]) -> Path:
    """A folder with results of `bench` by the names that pages use."""
    folder = tmp_path_factory.mktemp("results")
    for name, mtp in (("before", "off,auto"), ("plain", "off"), ("mtp", "auto")):
        command = f"edge-mtp bench --mtp {mtp} --output {name}.jsonl"
        subprocess.run(["bash", "-c", command], cwd=folder, env=programs, check=True, capture_output=True, timeout=300)
    for name in ("after", "results"):
        shutil.copy(folder / "before.jsonl", folder / f"{name}.jsonl")
    return folder


@pytest.fixture
def scratch(tmp_path: Path, tiny_bundle: Path, tiny_int8_bundle: Path, results: Path) -> Path:
    """A folder with the files that pages take for granted."""
    for name in ("fp32", "fp16"):
        shutil.copy(tiny_bundle, tmp_path / f"{name}.litertlm")
    for name in ("my", "model", "int8", "int4"):
        shutil.copy(tiny_int8_bundle, tmp_path / f"{name}.litertlm")
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    shutil.copy(TINY / "tools.json", tmp_path)
    items = (TINY / "splits" / "iid.jsonl").read_text("utf-8").splitlines(keepends=True)[:2]
    for name in ("prompts", "mine", "my-suite"):
        (tmp_path / f"{name}.jsonl").write_text("".join(items), "utf-8")
    schema = {"type": "object", "properties": {"celsius": {"type": "integer"}}, "required": ["celsius"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema), "utf-8")
    grammar = re.findall(r"^    (\w+ ::= .*)$", (ROOT / "docs" / "grammar.md").read_text("utf-8"), re.MULTILINE)
    (tmp_path / "reply.ebnf").write_text("\n".join(grammar) + "\n", "utf-8")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    return tmp_path


SLOW = {"README.md", "export.md", "measure.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else [])
        for page in PAGES
        if any(not not_executed(command) for block in blocks(page) for command in block.commands)
    ],
)
def test_the_commands_of_a_page_do_what_it_says(page: Path, scratch: Path, programs: dict[str, str]) -> None:
    for block in blocks(page):
        for command in block.commands:
            if not_executed(command):
                continue
            done = subprocess.run(
                ["bash", "-c", command], cwd=scratch, env=programs, capture_output=True, text=True, timeout=900
            )
            assert done.returncode == 0, f"{page.name}:{block.line}: {command}\n{done.stdout}{done.stderr}"
        if block.output is not None:
            missing = differences(block.output, done.stdout)
            assert not missing, f"{page.name}:{block.line}: {command}\nprints no {missing}, but\n{done.stdout}"


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=[f"{b.page.name}:{b.line}" for b, _ in COMMANDS])
def test_every_command_can_be_read(block: object, command: str) -> None:
    """Each option is one that the verb knows, also where a command is not executed."""
    for words in calls(command):
        read(words)
    if preset := re.match(r"cmake .*--preset (\S+)", command):
        known = json.loads((ROOT / "CMakePresets.json").read_text("utf-8"))
        assert preset[1] in {each["name"] for each in known["configurePresets"]}
    if script := re.match(r"(?:python )?(benchmarks/\S+\.py|\.ci/run)(.*)", command):
        assert os.access(ROOT / script[1], os.R_OK)
        source = (ROOT / script[1]).read_text("utf-8")
        assert all(f'"{option}"' in source for option in re.findall(r"--[\w-]+", script[2]))


def test_every_reason_not_to_execute_a_command_is_needed() -> None:
    for pattern in NOT_EXECUTED:
        assert any(re.match(pattern, command) for _, command in COMMANDS), pattern


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_are_executed(page: Path) -> None:
    """None hides in another block, where no test would try it."""
    text = page.read_text("utf-8")
    rest = re.sub(r"^```(?:sh|yaml)\n.*?^```\n", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^(?: {4}|\$ )(?:edge-mtp|python|pip) .*", rest, re.MULTILINE) == []
    fenced = re.findall(r"^```\w*\n(.*?)^```\n", rest, re.MULTILINE | re.DOTALL)
    assert [block for block in fenced if re.search(r"^(?:edge-mtp|pip) ", block, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_a_sentence_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for block in re.findall(r"^```yaml\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL):
        for line in re.findall(r"edge-mtp .*", block.replace("\\\n", " ")):
            read(*calls(line))
    for words in re.findall(r"`edge-mtp ([^`]+)`", text):
        command, rest = verb(words.split())
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known | {"--help"}, words


# Options of other programs that pages name.
FOREIGN = {
    "--no-deps",
    "--no-cache-dir",
    "--force-reinstall",
    "--preset",
    "--build",
    "--parallel",
    "--litert",
    "--cache-dir",
    "--token-bytes",
    "--stepwise",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page: Path) -> None:
    text = re.sub(r"^```(?:sh|yaml)\n.*?^```\n", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named - options() - FOREIGN == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_at_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    text = re.sub(r"^```python\n.*?^```\n", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"\b(test_\w+\.py)\b", text):
        assert list((ROOT / "tests").rglob(name)), name
    for name in re.findall(r"`((?:benchmarks|tests|device|export|edge_mtp)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / name).exists() or "/bin/" in name, name
    anchors = {page: headings(page) for page in PAGES}
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", text):
        there = (page.parent / target).resolve() if target else page
        assert anchor in anchors[there], f"{target}#{anchor}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    names = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def test_differences_are_found() -> None:
    """The judge of the outputs, on outputs that are right and wrong."""
    printed = 'call  set_alarm(time="06:40")\n\nfirst token 13.8 ms\n2,644 tokens/s\nsame text\n'
    assert differences('call  set_alarm(time="06:40")\n...\nfirst token 9 ms\n1 tokens/s\nsame text\n', printed) == []
    assert differences('call  set_alarm(time="06:41")\n', printed) == ['call  set_alarm(time="06:41")']
    assert differences("same text\nfirst token 9 ms\n", printed) == ["first token 9 ms"]
    assert differences("other text\n", printed) == ["other text"]


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 165
    assert [line for line in lines if len(line) > 120 and not line.startswith("python3 -m venv")] == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES[1:] if page.name != "README.md" and f"({page.name})" not in index] == []
