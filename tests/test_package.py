"""The package as users get it: typed, lazy, without the site's machinery."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import genref
from genref import __main__ as command

ROOT = Path(__file__).resolve().parents[1]


def test_topics_and_stems_are_imported_on_first_use():
    code = (
        "import sys, genref\n"
        "assert not [name for name in sys.modules if name.startswith(('genref.', 'torch'))]\n"
        "assert genref.masks.causal.mask('A').sum() == 4\n"
        "assert 'genref.masks.causal' in sys.modules and 'genref.masks.receptive_field' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_topic_imports_its_stems_on_first_use():
    for topic in (ROOT / "genref").glob("[!_]*/__init__.py"):
        package = getattr(genref, topic.parent.name)
        for stem in topic.parent.glob("[!_]*.py"):
            assert getattr(package, stem.stem).__name__ == f"genref.{topic.parent.name}.{stem.stem}"


@pytest.mark.parametrize("name", ["no_such_topic", "_private"])
def test_an_unknown_topic_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'genref' has no attribute '{name}'"):
        getattr(genref, name)


def test_a_broken_import_inside_a_topic_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/__init__.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.setattr(genref, "__path__", [*genref.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        _ = genref.broken


def test_the_command_says_where_claims_are_checked(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert command.main() == 2
    assert "in a checkout of genref" in capsys.readouterr().err


def test_the_command_hands_over_to_the_checkout(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["genref", "verify", "no-such-claim"])
    with pytest.raises(SystemExit, match="2"):
        command.main()


def test_the_wheel_is_typed_and_leaves_the_machinery_out(tmp_path):
    words = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"genref/__init__.py", "genref/py.typed", "genref/masks/causal.py"} <= set(names)
    assert not [name for name in names if "_site" in name or not name.startswith("genref")]
