"""What the project promises about itself: README, versions, files, and that no document has gone stale.

`python tests/test_project.py` (`make files`) rewrites CONTRIBUTING.md's list of files from the modules' docstrings.
"""

import ast
import importlib.metadata
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import scribbleseg

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "scribbleseg"
MODULES = sorted(SOURCE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FILE_LIST = re.compile(r"(?<=<!-- files -->\n)```text\n.*?```\n(?=<!-- /files -->)", re.DOTALL)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def first_sentence(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert docstring, f"{relative(module)} has no docstring; its first sentence says what the module is"
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph)[0]


def file_list() -> str:
    names = [relative(module) for module in MODULES]
    width = max(map(len, names))
    lines = [f"{name:{width}}  {first_sentence(module)}\n" for name, module in zip(names, MODULES, strict=True)]
    return "```text\n" + "".join(lines) + "```\n"


def fenced(language: str, document: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def console_commands() -> list[list[str]]:
    """Every `scribbleseg VERB ...` line in the documents' console blocks, as words."""
    text = "".join(block for document in DOCUMENTS for block in fenced("(?:console|bash|sh)", document))
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "scribbleseg " in line]
    return [line[1:] for line in words if line and line[0].endswith("scribbleseg")]


class TestDocuments:
    def test_file_list_is_the_docstrings(self):
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        assert FILE_LIST.findall(text) == [file_list()], "run `make files`"

    @pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
    def test_python_in_documents_names_what_exists(self, document):
        names = re.findall(r"\bss\.([a-zA-Z_]+)", document.read_text(encoding="utf-8"))
        assert not [name for name in names if not hasattr(scribbleseg, name)]

    @pytest.fixture
    def verbs(self):
        cli = pytest.importorskip("scribbleseg.cli")
        return typer.main.get_command(cli.app).commands

    def test_console_commands_name_verbs_and_options_that_exist(self, verbs):
        for verb, *words in console_commands():
            if verb.startswith("-"):
                continue
            assert verb in verbs, f"no verb {verb!r} among {sorted(verbs)}"
            options = {name for parameter in verbs[verb].params for name in parameter.opts + parameter.secondary_opts}
            unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options - {"--help"}
            assert not unknown, f"scribbleseg {verb} has no {sorted(unknown)}; it has {sorted(options)}"

    def test_every_verb_is_in_the_readme(self, verbs):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        assert not [verb for verb in verbs if f"scribbleseg {verb}" not in text and f"make {verb}" not in text]

    def test_its_make_targets_exist_and_ci_runs_its_test_command(self):
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
        named = set(re.findall(r"(?:`|^|\$ )make ([a-z-]+)", text, re.MULTILINE))
        assert {"demo", "test"} <= named <= targets
        assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    @pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
    def test_links_lead_somewhere(self, document):
        targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8"))
        missing = [target for target in targets if not (document.parent / target).exists()]
        assert not missing


class TestVersion:
    VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    def test_installed_package(self):
        assert importlib.metadata.version("scribbleseg") == self.VERSION

    def test_changelog_has_a_section(self):
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        assert re.search(rf"^## \[{re.escape(self.VERSION)}\]", changelog, re.MULTILINE)

    def test_citation(self):
        citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
        assert f"\nversion: {self.VERSION}\n" in citation
        assert all(paper in citation for paper in ("arXiv:1807.04668", "arXiv:1911.02014"))


class TestFiles:
    def test_are_small(self):
        assert not [relative(path) for path in tracked_files() if path.stat().st_size > 1_000_000]

    def test_hold_no_volumes_arrays_or_weights(self):
        forbidden = r"\.(nii|nrrd|nhdr|mha|mhd|dcm|h5|hdf5|npy|npz|pt|pth|ckpt|safetensors|pkl|onnx)(\.gz)?$"
        assert not [relative(path) for path in tracked_files() if re.search(forbidden, path.name)]

    def test_name_no_path_of_somebodys_machine(self):
        path_of_a_machine = re.compile(rb"(?<![\w.~/*-])/(?:home|Users|root|work|mnt|media|opt|scratch)/\w")
        assert not [relative(path) for path in tracked_files() if path_of_a_machine.search(path.read_bytes())]


class TestModules:
    @pytest.mark.parametrize("module", [*MODULES, *BENCHMARKS], ids=relative)
    def test_first_sentence_ends(self, module):
        assert first_sentence(module).endswith(".")

    @pytest.mark.parametrize("module", MODULES, ids=relative)
    def test_fits_a_screen(self, module):
        """No module above 400 lines, no function above 60, no call with more than 6 arguments."""
        text = module.read_text(encoding="utf-8")
        assert text.count("\n") <= 400
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, node.name
            if isinstance(node, ast.Call):
                assert len(node.args) + len(node.keywords) <= 6, f"line {node.lineno}: {ast.unparse(node.func)}"

    @pytest.mark.parametrize("module", MODULES, ids=relative)
    def test_docstrings_begin_with_what_a_thing_is(self, module):
        """Neither a docstring nor the description of an argument is a fragment that hangs on the name before it."""
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = [
            node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, documented)
        ]
        docstrings = [docstring for node in nodes if (docstring := ast.get_docstring(node))]
        dangling = re.compile(r"\A(?:Of|On|As of) |^\s+\w+: (?:of|on|as of|as in|by) ", re.MULTILINE)
        found = [match[0] for docstring in docstrings if (match := dangling.search(docstring))]
        assert not found

    def test_file_names_of_tests_are_unique(self):
        names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
        assert len(names) == len(set(names))

    def test_command_line_starts_without_heavy_imports(self):
        """`--help` is instant because each verb imports what it needs, when it runs."""
        heavy = {"torch", "numpy", "scipy", "skimage", "monai", "matplotlib", "SimpleITK", "nibabel", "pydantic"}
        script = f"import sys, scribbleseg.cli; print(*sorted({heavy!r} & set(sys.modules)))"
        answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert answer.stdout.split() == []

    @pytest.mark.parametrize("script", BENCHMARKS, ids=relative)
    def test_benchmark_has_a_quick_mode(self, script, monkeypatch, capsys):
        if "from pydensecrf" in script.read_text(encoding="utf-8"):
            pytest.importorskip("pydensecrf", reason="a peer of the benchmark extra")
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        monkeypatch.syspath_prepend(str(script.parent))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name="__main__")
        assert not stop.value.code
        assert "--quick" in capsys.readouterr().out


if __name__ == "__main__":
    document = ROOT / "CONTRIBUTING.md"
    document.write_text(FILE_LIST.sub(lambda _: file_list(), document.read_text(encoding="utf-8")), encoding="utf-8")
