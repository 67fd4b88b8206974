"""GGUF files: a model's weights, mostly in few bits, with its configuration and tokenizer in one
file. Transformers reads them; here they become ordinary models, of whole numbers throughout."""

from __future__ import annotations

import importlib.util
import re
import struct
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from opsd.types import UserError
from opsd.validation import install

SUFFIX = ".gguf"
_UNREADABLE = (OSError, ValueError, LookupError, AttributeError, NotImplementedError, struct.error)
"""What reading a damaged or unknown file ends in, in the package gguf and in Transformers."""
_ONE_DIGIT = {"smollm", "starcoder", "refact", "command-r", "codeshell"}
"""Pre-tokenizers that split every digit off first, by llama.cpp's names (its llama-vocab.cpp);
Transformers splits as GPT-2 does, which differs where white space meets a digit."""
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Header:
    """What a file says of itself: `metadata` without its lists, and how many numbers each tensor
    has."""

    metadata: Mapping[str, Any]
    sizes: Mapping[str, int]


def is_gguf(path: str) -> bool:
    """Whether a name is a GGUF file's: a file here, or one in a repository of the hub, as in
    `owner/repository/model.gguf`."""
    return path.endswith(SUFFIX) and not Path(path).is_dir()


def joined(name: str, gguf_file: str | None) -> str:
    """One name for a file in a folder or a repository.

    >>> joined("owner/repository@main", "model.gguf")
    'owner/repository/model.gguf@main'
    """
    if gguf_file is None:
        return name
    if is_gguf(name):
        raise UserError(f"gguf_file: '{name}' names a file already; leave one of the two out")
    if not gguf_file.endswith(SUFFIX):
        raise UserError(f"gguf_file: '{gguf_file}' is not a GGUF file by its name ({SUFFIX})")
    place, at, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    return f"{place.rstrip('/')}/{gguf_file}{at}{revision}"


def place_of(path: str) -> tuple[str, str]:
    """The repository of a file on the hub, and the file in it."""
    owner, repository, name = path.split("/", 2)
    return f"{owner}/{repository}", name


def refuse_missing(path: str) -> None:
    """Raises UserError for a file that is not here and cannot be on the hub."""
    owner, *rest = path.split("/", 2)
    elsewhere = len(rest) == 2 and owner not in ("", ".", "..", "~")
    if not Path(path).is_file() and (not elsewhere or Path(path).parent.is_dir()):
        raise UserError(f"cannot load the model '{path}': there is no such file")


def local_file(path: str, revision: str | None) -> Path:
    """The file on this machine, downloaded first where it is on the hub."""
    from huggingface_hub import hf_hub_download

    refuse_missing(path)
    if Path(path).is_file():
        return Path(path)
    repository, name = place_of(path)
    return Path(hf_hub_download(repository, name, revision=revision))


@contextmanager
def alone(file: Path) -> Iterator[dict[str, Any]]:
    """Transformers' arguments for a file, in a folder of its own: what lies beside a file, such as
    another model's tokenizer, would be taken for its own. UserError where they cannot read it."""
    with tempfile.TemporaryDirectory(prefix="opsd-gguf-") as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        try:
            yield {"pretrained_model_name_or_path": folder, "gguf_file": file.name}
        except _UNREADABLE as error:
            raise UserError(f"cannot load the model '{file}': {_line(error)}") from error


def header(file: Path) -> Header:
    """Raises UserError where the package gguf is missing, and for a file that is damaged or holds
    numbers in a type that cannot be read."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{file}: GGUF files are read by the package gguf: {install('gguf')}")
    about = file.stat()
    return _header(file, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=8)
def _header(file: Path, size: int, changed: int) -> Header:
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(file)
        fields = {k: f.contents() for k, f in reader.fields.items() if len(f.data) == 1}
    except _UNREADABLE as error:
        raise UserError(f"{file} is damaged, or not a GGUF file ({_line(error)})") from error
    for kind, tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.items():
        try:
            dequantize(tensor.data[:1], kind)
        except _UNREADABLE as error:
            raise UserError(
                f"{file}: '{tensor.name}' is in {kind.name}, which cannot be made into whole"
                f" numbers ({_line(error)}); take a file in another type, such as Q8_0"
            ) from error
    return Header(fields, {t.name: prod(int(n) for n in t.shape) for t in reader.tensors})


def load(
    path: str, revision: str | None = None, dtype: str = "auto", **options: Any
) -> tuple[Any, dict[str, Any]]:
    """The model in `dtype`, where that is "auto" in float32, and what Transformers says of its
    loading: an ordinary model, which can be trained and saved.

    Raises UserError for a file with weights that the model has no place for: without them it would
    be another one.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    if "quantization_config" in options:
        raise UserError(
            f"model.quantization: '{path}' is a GGUF file, which is read into whole numbers: make a"
            " folder of it first (opsd export)"
        )
    file = local_file(path, revision)
    about = header(file)
    # Later versions of Transformers would otherwise keep what they can in few bits.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with alone(file) as named:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **named,
            dtype="float32" if dtype == "auto" else dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    model, found = loaded
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        quantizer.remove_quantization_config(model)
    _refuse_left_out(file, about, model)
    # PEFT looks beside an adapter's base for its vocabulary's size, at every saving.
    warnings.filterwarnings("ignore", r"Could not find a config file in .*\.gguf ")
    # What an adapter remembers its base by.
    model.name_or_path = model.config._name_or_path = path
    return model, found


def load_config(path: str, revision: str | None = None) -> Any:
    """The model's configuration."""
    from transformers import AutoConfig

    file = local_file(path, revision)
    header(file)
    with alone(file) as named:
        return AutoConfig.from_pretrained(**named)


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The file's own tokenizer, which begins a text as the file says, and splits it likewise."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    file = local_file(path, revision)
    said = header(file).metadata
    begins = said.get("tokenizer.ggml.add_bos_token")
    options = {} if begins is None else {"add_bos_token": bool(begins)}
    with alone(file) as named:
        tokenizer = AutoTokenizer.from_pretrained(**named, **options)
    if said.get("tokenizer.ggml.pre") in _ONE_DIGIT:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    # Saved, these would lead to a folder that is gone.
    tokenizer.name_or_path = path
    tokenizer.init_kwargs = {
        k: v for k, v in tokenizer.init_kwargs.items() if k not in ("gguf_file", "name_or_path")
    }
    return tokenizer


def _refuse_left_out(file: Path, about: Header, model: Any) -> None:
    """Transformers passes over tensors that it knows no place for, such as frequencies of positions
    (Llama 3) or biases. Layers after the model's last one predict further tokens: they are not
    part of it."""
    layers = model.config.get_text_config().num_hidden_layers
    own = {
        name: size
        for name, size in about.sizes.items()
        if not ((at := _LAYER.match(name)) and int(at[1]) >= layers)
    }
    # A tied weight is there once.
    weights = {weight.data_ptr(): weight.numel() for weight in model.state_dict().values()}
    held, expected = sum(own.values()), sum(weights.values())
    if held > expected:
        odd = [name for name in own if name.startswith("rope_") or name.endswith(".bias")]
        hint = f", such as {odd[0]}" if odd else ""
        raise UserError(
            f"{file} holds {held:,} numbers{hint}, of which Transformers makes a model of"
            f" {expected:,}: that would be another one. Take the model in safetensors"
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
