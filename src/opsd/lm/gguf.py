"""GGUF files: a model's weights, mostly quantized, with its configuration and tokenizer in one
file. Transformers reads them; here they become ordinary, unquantized models."""

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
"""The exceptions of the package gguf and of Transformers for a damaged or unknown file."""
_ONE_DIGIT = {"smollm", "starcoder", "refact", "command-r", "codeshell"}
"""Pre-tokenizers that first split off every digit, by llama.cpp's names (its llama-vocab.cpp).
Transformers splits like GPT-2, which differs between white space and a digit."""
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Header:
    """A file's header: `metadata` without its lists, and each tensor's number of elements."""

    metadata: Mapping[str, Any]
    sizes: Mapping[str, int]


def is_gguf(path: str) -> bool:
    """Whether a name is that of a GGUF file: a local file, or one in a Hub repository, as in
    `owner/repository/model.gguf`."""
    return path.endswith(SUFFIX) and not Path(path).is_dir()


def joined(name: str, gguf_file: str | None) -> str:
    """The combined name of a file in a folder or a repository.

    >>> joined("owner/repository@main", "model.gguf")
    'owner/repository/model.gguf@main'
    """
    if gguf_file is None:
        return name
    if is_gguf(name):
        raise UserError(f"gguf_file: '{name}' is already a file's name; leave one of the two out")
    if not gguf_file.endswith(SUFFIX):
        raise UserError(f"gguf_file: '{gguf_file}' is not a GGUF file by its name ({SUFFIX})")
    place, at, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    return f"{place.rstrip('/')}/{gguf_file}{at}{revision}"


def place_of(path: str) -> tuple[str, str]:
    """The repository of a file on the Hub, and the file's path in it."""
    owner, repository, name = path.split("/", 2)
    return f"{owner}/{repository}", name


def refuse_missing(path: str) -> None:
    """Raises UserError for a file that is not local and cannot be on the Hub."""
    owner, *rest = path.split("/", 2)
    elsewhere = len(rest) == 2 and owner not in ("", ".", "..", "~")
    if not Path(path).is_file() and (not elsewhere or Path(path).parent.is_dir()):
        raise UserError(f"cannot load the model '{path}': there is no such file")


def local_file(path: str, revision: str | None) -> Path:
    """The local file, downloaded first if it is on the Hub."""
    from huggingface_hub import hf_hub_download

    refuse_missing(path)
    if Path(path).is_file():
        return Path(path)
    repository, name = place_of(path)
    return Path(hf_hub_download(repository, name, revision=revision))


@contextmanager
def alone(file: Path) -> Iterator[dict[str, Any]]:
    """Transformers' arguments for a file, alone in a temporary folder: otherwise files next to it,
    such as another model's tokenizer, would be loaded with it. UserError if Transformers cannot
    read it."""
    with tempfile.TemporaryDirectory(prefix="opsd-gguf-") as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        try:
            yield {"pretrained_model_name_or_path": folder, "gguf_file": file.name}
        except _UNREADABLE as error:
            raise UserError(f"cannot load the model '{file}': {_line(error)}") from error


def header(file: Path) -> Header:
    """The file's header. Raises UserError if the package gguf is missing, and for a file that is
    damaged or has weights in a type that cannot be read."""
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
                f"{file}: '{tensor.name}' is in {kind.name}, which cannot be dequantized"
                f" ({_line(error)}); use a file in another type, such as Q8_0"
            ) from error
    return Header(fields, {t.name: prod(int(n) for n in t.shape) for t in reader.tensors})


def load(
    path: str, revision: str | None = None, dtype: str = "auto", **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Load the model as an ordinary model, which can be trained and saved, with Transformers'
    loading info. `dtype` "auto" means float32.

    Raises UserError for a file with weights that Transformers would drop: without them it would be
    another model.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    if "quantization_config" in options:
        raise UserError(
            f"model.quantization: '{path}' is a GGUF file, which is dequantized when loaded:"
            " convert it to a folder first (opsd export)"
        )
    file = local_file(path, revision)
    about = header(file)
    # Later versions of Transformers would otherwise keep weights quantized if they can.
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
    # At every save, PEFT looks for the base model's vocabulary size next to its file.
    warnings.filterwarnings("ignore", r"Could not find a config file in .*\.gguf ")
    # An adapter refers to its base model by this name.
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
    """The file's own tokenizer, which adds BOS tokens and splits texts as the file says."""
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
    # If saved, these would refer to a folder that no longer exists.
    tokenizer.name_or_path = path
    tokenizer.init_kwargs = {
        k: v for k, v in tokenizer.init_kwargs.items() if k not in ("gguf_file", "name_or_path")
    }
    return tokenizer


def _refuse_left_out(file: Path, about: Header, model: Any) -> None:
    """Raises UserError if Transformers has dropped tensors that it does not know, such as rotary
    frequencies (Llama 3) or biases. Layers after the model's last one predict further tokens and do
    not count."""
    layers = model.config.get_text_config().num_hidden_layers
    own = {
        name: size
        for name, size in about.sizes.items()
        if not ((at := _LAYER.match(name)) and int(at[1]) >= layers)
    }
    # A tied weight is counted once.
    weights = {weight.data_ptr(): weight.numel() for weight in model.state_dict().values()}
    held, expected = sum(own.values()), sum(weights.values())
    if held > expected:
        odd = [name for name in own if name.startswith("rope_") or name.endswith(".bias")]
        hint = f", such as {odd[0]}" if odd else ""
        raise UserError(
            f"{file} contains {held:,} weights{hint}, but Transformers would load only"
            f" {expected:,} of them, as another model. Use the model in safetensors"
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
