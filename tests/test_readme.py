"""What README.md and docs/*.md show can be typed: their blocks run, in order, in one folder per document.

A ```bash or ```python block runs in a folder that holds photo.jpg, photos/, data/ (two classes) and
model.safetensors; ```text and ```console show output and are left alone. A block below a comment
<!-- needs: network --> or <!-- needs: minutes --> is not run, but every swinv2 line in it is read by the
command line and every name of swinv2 in it looked up. pip, git and make lines are checked, not run.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from folder import make_folder
from packaging.requirements import Requirement

import swinv2
from swinv2 import cli
from swinv2.verbs import UsageError

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.stat().st_size
]
LONG = {"benchmark.md", "export.md", "pretrain.md", "quantize.md"}  # half a minute each
BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>[a-z ]+) -->\s*\n)?"
    r"(?P<fence>```+)(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^(?P=fence)\s*$",
    re.MULTILINE | re.DOTALL,
)
SET_UP = {
    "pip",
    "git",
    "make",
    "cd",
    "source",
    ".",
    "python",
    "python3",
}  # prepare a machine: checked, not run
SECONDS = 240  # for one block


@dataclass(frozen=True)
class Block:
    language: str
    needs: str | None
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    return [
        Block(m["language"], m["needs"], m["text"], text.count("\n", 0, m.start("fence")) + 1)
        for m in BLOCK.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """The words of every simple command; lines are joined at a backslash and split at pipes and the like."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        simple: list[str] = []
        skip = False  # the file behind > or <
        for word in words:
            if set(word) <= set("();<>|&"):
                skip = set(word) <= set("<>&") and word != "&&"
                if not skip:
                    found.append(simple)
                    simple = []
            elif not skip:
                simple.append(word)
            else:
                skip = False
        found.append(simple)
    return [simple for simple in found if simple]


def check_commands(text: str) -> None:
    """Raise where a command cannot be what it looks like."""
    for words in commands(text):
        name, arguments = words[0], words[1:]
        if name == "swinv2" and not {"--help", "-h", "--version"} & set(arguments):
            cli.parse(arguments)
        elif words[:3] == ["python", "-m", "swinv2"]:
            cli.parse(words[3:])
        elif name == "pip":
            check_pip(arguments)
        elif name == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(arguments) <= set(targets), f"make {' '.join(arguments)}: the Makefile has {targets}"
        elif name == "git":
            assert arguments[0] in ("clone", "lfs", "checkout", "pull"), words


def check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", arguments
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in (a for a in arguments[1:] if not a.startswith("-")):
        local = re.fullmatch(r"\.(\[.*\])?", requirement)
        wanted = Requirement(f"swinv2{local[1] or ''}" if local else requirement)
        if wanted.name == "swinv2":
            assert wanted.extras <= set(extras), f"pyproject.toml has the extras {sorted(extras)}"


def check_names(text: str) -> None:
    """Raise where Python code does not parse, or uses a name that swinv2 does not have."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "swinv2":
            assert hasattr(swinv2, node.attr), f"swinv2 has no {node.attr}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "swinv2":
            module = __import__(node.module or "", fromlist=["*"])
            missing = [a.name for a in node.names if not hasattr(module, a.name)]
            assert not missing, f"{node.module} has no {missing}"


# ---------------------------------------------------------------------- the folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("documents"))


def run_bash(text: str, folder: Path) -> None:
    """Run what is not set-up; fails with what it printed."""
    check_commands(text)
    lines = [
        line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")
    ]
    kept = [line for line in lines if line.split()[0] not in SET_UP or line.startswith("python -m swinv2")]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(kept)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "document",
    [pytest.param(path, marks=pytest.mark.slow) if path.name in LONG else path for path in DOCUMENTS],
    ids=lambda path: path.name,
)
def test_blocks_of_a_document_run(document, prepared, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    namespace: dict = {"__name__": "__main__"}
    for block in blocks(document.read_text()):
        try:
            if block.language == "bash" and block.needs:
                check_commands(block.text)
            elif block.language == "bash":
                run_bash(block.text, folder)
            elif block.language == "python" and block.needs:
                check_names(block.text)
            elif block.language == "python":
                exec(compile(block.text, f"{document.name}:{block.line}", "exec"), namespace)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{document.name}, block at line {block.line}: {type(error).__name__}: {error}")


# ---------------------------------------------------------------------- this file works


def test_blocks_are_found_with_their_comment_and_line():
    text = "a\n<!-- needs: network -->\n```bash\nx\n```\n\n```python\ny\n```\n````text\n```bash\n```\n````\n"
    assert [(b.language, b.needs, b.line) for b in blocks(text)] == [
        ("bash", "network", 3), ("python", None, 7), ("text", None, 10),
    ]  # fmt: skip


def test_commands_are_split_as_a_shell_does():
    text = "cat a.jpg | swinv2 predict - \\\n  --json > 'b c.json'  # comment\npip install x && make demo\n"
    assert commands(text) == [
        ["cat", "a.jpg"], ["swinv2", "predict", "-", "--json"], ["pip", "install", "x"], ["make", "demo"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("swinv2 predict photo.jpg --topk 3", UsageError),
        ("cat photo.jpg | swinv2 perdict -", UsageError),
        ("make dmeo", AssertionError),
        ('pip install "swinv2[trian]"', AssertionError),
    ],
)
def test_a_wrong_line_is_noticed(line, error):
    with pytest.raises(error):
        check_commands(line)


def test_a_wrong_name_is_noticed():
    check_names("import swinv2\nswinv2.create_model('x')")
    with pytest.raises(AssertionError, match="no cretae_model"):
        check_names("import swinv2\nswinv2.cretae_model('x')")


def test_a_failing_block_is_noticed(prepared):
    with pytest.raises(AssertionError, match="exit code 3"):
        run_bash("swinv2 predict photo.jpg --model missing.safetensors", prepared)
