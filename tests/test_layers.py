"""The shape of the package: who may import whom, what works without torch, and how large a file may grow.

Nouns say what a thing is, verbs what is done. Verbs import nouns; nouns never import verbs. What stands below
the waist works without torch. A new file needs a row here, which is the moment to ask where it belongs.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import swinv2

ROOT = Path(swinv2.__file__).parent
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "torchaudio",
}  # what nothing below the waist may need

# module -> what of ours it may import. A row covers the modules below it that have no row of their own.
BELOW = {  # nouns without torch
    "extras":         "",
    "verbs":          "",
    "console":        "",
    "config":         "",
    "counts":         "config",
    "images":         "",
    "web":            "images",
    "inputs":         "images web",
    "resample":       "",
    "preprocess":     "config images resample",
    "artifact":       "config counts preprocess",
    "labels":         "extras",
    "download":       "artifact console",
    "weights":        "artifact config counts download extras preprocess checkpoints",
    "pdparams":       "artifact",
    "runtimes":       "artifact config extras verbs",
    "runtimes.engine": "artifact runtimes weights",
    "predictions":    "artifact",
    "probe":          "artifact config",
    "parity":         "",
    "lint":           "runtimes",
    "child":          "artifact",
    "verification":   "artifact child config parity probe runtimes",
    "deployments":    "artifact runtimes",
    "data":           "images extras console labels verbs weights",
    "metrics":        "extras",
    "multilabel":     "extras metrics",
    "explain.drawing": "preprocess",
    "world":          "",
    "packages":       "",
    "options":        "verbs",
}  # fmt: skip
ABOVE = {  # nouns that need torch
    "ops":            "config linear",
    "linear":         "",
    "model":          "artifact config counts linear ops",
    "fold":           "config linear model ops verbs",
    "float8":         "fold ops",
    "edge":           "config fold ops verbs",
    "checkpoints":    "artifact config counts download labels model pdparams preprocess weights",
    "data.order":     "data",
    "data.loader":    "data data.order images preprocess",
    "runtimes.graphs": "ops",
    "runtimes.torch": "artifact checkpoints float8 fold model runtimes runtimes.graphs",
    "runtimes.onnx":  "artifact config extras fold model ops runtimes",
    "runtimes.openvino": "artifact config extras fold model ops runtimes runtimes.onnx",
    "runtimes.xnnpack": "config edge fold ops",
    "runtimes.executorch": "artifact extras fold model runtimes runtimes.xnnpack",
    "runtimes.litert": "artifact extras fold model runtimes runtimes.xnnpack",
    "runtimes.ncnn":  "artifact config extras fold model ops runtimes",
    "runtimes.mnn":   "artifact child extras fold model runtimes runtimes.onnx",
    "runtimes.coreml": "artifact edge extras fold model runtimes",
    "runtimes.paddle": "checkpoints model runtimes runtimes.torch",
    "runtimes.torchscript": "artifact edge fold model runtimes runtimes.torch",
    "runtimes.pt2":   "artifact fold model ops runtimes runtimes.torch",
    "runtimes.tensorrt": "artifact extras fold model runtimes runtimes.onnx runtimes.torch",
    "export.writing": "checkpoints config lint probe runtimes verification",
    "quantize.sensitivity": "checkpoints fold",
    "explain.gradcam": "model",
    "explain.attention": "config explain.gradcam model ops",
    "explain.explainer": "artifact checkpoints explain.attention explain.drawing explain.gradcam inputs model "
                         "preprocess runtimes runtimes.torch",
}  # fmt: skip
VERBS = {
    "predict":        "artifact console inputs predictions runtimes verbs",
    "train":          "artifact checkpoints config console counts data data.loader data.order extras metrics model "
                      "multilabel preprocess report runtimes.torch verbs world",
    "pretrain":       "console data train verbs world",
    "evaluate":       "artifact checkpoints console data extras metrics model multilabel preprocess report runtimes "
                      "runtimes.torch verbs world",
    "report":         "artifact console data explain.explainer extras images metrics preprocess verbs",
    "explain":        "console explain.drawing explain.explainer inputs model verbs",
    "export":         "artifact checkpoints child config console deployments extras model parity quantize runtimes "
                      "verbs verification",
    "quantize":       "artifact child config console data evaluate export extras inputs metrics model runtimes verbs "
                      "verification",
    "verify":         "artifact console export parity verbs verification",
    "benchmark":      "artifact child console data doctor evaluate metrics model packages parity probe quantize report "
                      "runtimes verbs verification",
    "serve":          "artifact child console explain.explainer extras images inputs predictions preprocess probe "
                      "runtimes verbs weights",
    "convert":        "artifact checkpoints console counts extras model verbs",
    "models":         "config console counts verbs weights",
    "doctor":         "console packages runtimes verbs weights",
}  # fmt: skip
LINE = {  # the command line stands above all
    "cli":            "artifact child console data options packages verbs world",
    "__main__":       "cli world",
}  # fmt: skip
ALLOWED = {name: set(row.split()) for name, row in (BELOW | ABOVE | VERBS | LINE).items()}
# Verbs whose module, and so their help, must be there without torch.
WITHOUT_TORCH = [
    *BELOW,
    "runtimes.executorch",
    "runtimes.executorch.program",
    "runtimes.executorch.session",
    "runtimes.litert",
    "runtimes.onnx",
    "runtimes.onnx.record",
    "runtimes.onnx.session",
    "runtimes.openvino",
    "runtimes.openvino.cache",
    "runtimes.openvino.record",
    "runtimes.openvino.session",
    "runtimes.ncnn",
    "runtimes.ncnn.layers",
    "runtimes.ncnn.session",
    "runtimes.mnn",
    "runtimes.mnn.session",
    "runtimes.coreml",
    "runtimes.tensorrt",
    "predict",
    "serve",
    "train",
    "train.recipes.recipe",
    "train.recipes.rules",
    "train.recipes.settings",
    "train.plan",
    "train.memory",
    "pretrain",
    "evaluate",
    "report",
    "explain",
    "explain.explainer",
    "export",
    "export.deploying",
    "export.one",
    "export.printing",
    "quantize",
    "quantize.choice",
    "quantize.judging",
    "quantize.printing",
    "quantize.search",
    "quantize.work",
    "verify",
    "benchmark",
    "benchmark.drawing",
    "benchmark.turns",
    "convert",
    "models",
    "doctor",
    "cli",
]
LINES = {"model": 400}  # others: 500


@dataclass(frozen=True)
class File:
    path: Path
    module: str  # "data.loader", "data" for a package
    tree: ast.Module
    at_import: frozenset[str]  # full names imported when the module is
    later: frozenset[str]  # inside functions, or for type checkers only


def files() -> list[File]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(path.read_text())
        at_import: set[str] = set()
        later: set[str] = set()
        collect(tree, at_import, later, inside=False)
        found.append(File(path, module, tree, frozenset(at_import), frozenset(later)))
    return found


def collect(node: ast.AST, at_import: set[str], later: set[str], *, inside: bool) -> None:
    for child in ast.iter_child_nodes(node):
        names = later if inside else at_import
        if isinstance(child, ast.Import):
            names.update(alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import in line {child.lineno}"
            names.update(f"{child.module}.{alias.name}" for alias in child.names)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        only_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        collect(child, at_import, later, inside=inside or function or only_types)


FILES = files()
MODULES = {file.module for file in FILES}
OURS = [file for file in FILES if file.module]  # but for swinv2/__init__.py, which resolves names lazily


def row_of(module: str, rows: dict = ALLOWED) -> str | None:
    """The nearest row: train.loop -> train."""
    while module and module not in rows:
        module = module.rpartition(".")[0]
    return module or None


def ours(names: frozenset[str]) -> set[str]:
    """Full names -> modules of ours: swinv2.config.resolve -> config, swinv2.console -> console."""
    found = set()
    for name in names:
        if name.startswith("swinv2."):
            module = name.removeprefix("swinv2.")
            while module not in MODULES and module:
                module = module.rpartition(".")[0]
            found.add(module)
    return found - {""}


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.module)
def test_imports_are_those_that_the_table_allows(file):
    row = row_of(file.module)
    assert row, f"{file.module} has no row in this table: where does it belong?"
    imported = {row_of(module) for module in ours(file.at_import | file.later)}
    assert imported - ALLOWED[row] - {row} == set()


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.module)
def test_torch_is_not_imported_below_the_waist(file):
    """Nowhere at the top of a file; inside a function where torch tensors were handed in or asked for."""
    if row_of(file.module) in BELOW or file.module in WITHOUT_TORCH:
        assert {name.partition(".")[0] for name in file.at_import} & HEAVY == set()
        needs_torch = {m for m in ours(file.at_import) if row_of(m) in ABOVE and m not in WITHOUT_TORCH}
        assert needs_torch - {"checkpoints"} == set()


def test_nouns_never_import_verbs():
    for noun in BELOW | ABOVE:
        assert ALLOWED[noun] & (VERBS | LINE).keys() == set(), noun


def test_nouns_without_torch_import_only_their_like():
    for noun in BELOW:
        assert ALLOWED[noun] <= BELOW.keys() | {"checkpoints"}, noun


def test_every_row_has_its_module():
    assert set(ALLOWED) - MODULES == set()


def test_no_module_is_imported_in_a_circle():
    graph = {file.module: ours(file.at_import) - {file.module} for file in OURS}

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        for other in graph.get(module, ()):
            walk(other, (*path, module))

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.path.relative_to(ROOT)))
def test_a_file_is_small_and_plain(file):
    text = file.path.read_text()
    assert file.path.stem not in {"utils", "util", "common", "helpers", "helper", "misc"}
    assert len(text.splitlines()) <= LINES.get(file.module, 500)
    assert text.isascii(), [line for line in text.splitlines() if not line.isascii()]
    assert ast.get_docstring(file.tree), "a file starts by saying what it is"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_below_the_waist_imports_without_torch():
    modules = [f"swinv2.{name}" for name in sorted(MODULES) if row_of(name) in BELOW or name in WITHOUT_TORCH]
    python(
        f"import sys, importlib\nsys.modules.update(dict.fromkeys({HEAVY}))\n"
        f"for m in {modules}: importlib.import_module(m)"
    )


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["predcit"]], ids=" ".join)
def test_the_top_of_the_command_line_imports_nothing_heavy(argv):
    loaded = set(
        python(f"import sys; from swinv2.cli import main; main({argv}); print(*sys.modules)").split()
    )
    assert loaded & (HEAVY | {"numpy", "rich", "PIL", "jsonargparse", "yaml", "huggingface_hub"}) == set()
    assert loaded & {f"swinv2.{verb}" for verb in VERBS} == set()


def test_help_answers_in_less_than_three_tenths_of_a_second():
    """The best of five starts: others share this machine."""
    code = (
        "import subprocess, sys, time\n"
        "def once():\n"
        "    start = time.perf_counter()\n"
        "    subprocess.run([sys.executable, '-m', 'swinv2', '--help'], check=True, stdout=-3)\n"
        "    return time.perf_counter() - start\n"
        "print(min(once() for _ in range(5)))"
    )
    assert float(python(code)) < 0.3


@pytest.mark.parametrize("name", swinv2._PUBLIC)
def test_public_names_resolve(name):
    assert callable(getattr(swinv2, name))
    assert name in dir(swinv2)


def test_public_names_can_be_called_whatever_was_imported_before():
    """import swinv2.fold puts the module under the name of its function."""
    modules = [f"swinv2.{name}" for name in sorted(MODULES - {"__main__", ""})]
    python(
        f"import importlib, swinv2\nfor m in {modules}: importlib.import_module(m)\n"
        "assert not [name for name in swinv2._PUBLIC if not callable(getattr(swinv2, name))]"
    )


def test_swinv2_itself_imports_nothing():
    loaded = python(
        "import sys; before = set(sys.modules); import swinv2; print(*(set(sys.modules) - before))"
    ).split()
    assert [m for m in loaded if m.partition(".")[0] not in sys.stdlib_module_names] == ["swinv2"]
