"""Loads models and tokenizers, by Hub name, folder, GGUF file, or the name of a built-in model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from opsd.console import log
from opsd.credentials import cleaned
from opsd.lm import gguf
from opsd.lm.agreement import refuse_prompt_learning
from opsd.lm.built_in import resolve
from opsd.lm.diffusion import (
    PUBLISHED,
    look_both_ways,
    published_config,
    published_names,
    published_tokenizer,
)
from opsd.lm.quantization import Bits
from opsd.lm.quantization import quantization as quantize
from opsd.lm.sharding import local
from opsd.runs import checkpoint
from opsd.types import UserError

_RANDOM = re.compile("dropout|pdrop|layerdrop|drop_path")
"""Names of module attributes that control randomness in a training pass."""
_ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "*token*",
    "*.jinja",
    "vocab.*",
    "merges.txt",
)
_TEXTS = (
    "The answer to 12 + 345 = 357 is therefore \\boxed{357}.",
    "  def f(x):\n\treturn x ** 2  # 1,000.5 %\n\n",
    "Jibu ni kumi na mbili; mọ́kàndínlógún, ƙidaya, ukubala.",
    "Größe, où, năm, ответ, απάντηση, תשובה, الجواب, उत्तर, উত্তর, คำตอบ, 答案是, 答えは, 답은 🙂",
)
"""Texts by which tokenizers are compared: digits, code, marks, white space, many scripts."""
_REFUSALS: tuple[tuple[type[BaseException], str], ...] = (
    (hub.GatedRepoError, "it is gated: request access on its page, then log in (hf auth login)"),
    (
        hub.RepositoryNotFoundError,
        "neither a folder here nor a Hub repository that you may read; check the spelling,"
        " and log in for a private one (hf auth login)",
    ),
    (hub.RevisionNotFoundError, "the repository has no such revision"),
    (hub.HFValidationError, "neither a folder here nor a name that the Hub could have"),
    (
        hub.LocalEntryNotFoundError,
        "not a folder here, not in the download cache, and the Hub cannot be reached",
    ),
)


_JSON = {
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    "model.safetensors.index.json",
}
"""The JSON files that Transformers and PEFT read from a model's folder."""

_UNLOADABLE = (OSError, ValueError, ImportError, SafetensorError, hub.StrictDataclassError)


def locate(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """A model's folder or Hub name, and the revision, which may be written `name@revision`."""
    if revision is None and "@" in name and not Path(name).exists():
        name, _, revision = name.rpartition("@")
    return resolve(name), revision


def load_model(
    name: str,
    *,
    trained: bool = False,
    bf16: bool = False,
    revision: str | None = None,
    gguf_file: str | None = None,
    dtype: str | None = None,
    quantization: Bits | None = None,
    **options: Any,
) -> Any:
    """Load a causal language model. `trained` weights are kept in float32; a base that only an
    adapter changes gets the checkpoint's own dtype, or bfloat16 under `bf16`; `dtype` overrides
    both. For a folder or repository with an adapter, the base is loaded with the adapter on it, and
    training continues that adapter. `quantization` keeps such a base in 4 or 8 bits. A GGUF file,
    given by its name or as the `gguf_file` of a folder or repository, is loaded in float32 by
    default. `options` are Transformers' (`attn_implementation`, `trust_remote_code`).

    Raises UserError if the model or its adapter cannot be loaded completely. It never loads another
    model instead, randomly initialised weights, or weights that differ from those that were saved.
    """
    options = {"trust_remote_code": False} | {k: v for k, v in options.items() if v is not None}
    path, revision = locate(gguf.joined(name, gguf_file), revision)
    _refuse_damage(Path(path), (".safetensors", ".json"))
    try:
        adapter = adapter_folder(path, revision)
        if dtype is None and bf16 and not (trained and adapter is None):
            dtype = "bfloat16"
        if quantization is not None:
            if trained and adapter is None:
                raise UserError(
                    "model.quantization: quantized weights cannot be trained: add 'lora'"
                )
            options["quantization_config"] = quantize(quantization, dtype)
        if adapter is not None:
            options["dtype"] = dtype or "auto"
            return _under_adapter(adapter, trainable=trained, **options)
        options["dtype"] = dtype or ("float32" if trained else "auto")
        return _whole(path, revision=revision, **options)
    except _UNLOADABLE as error:
        raise UserError(f"cannot load the model '{name}': {reason(error)}") from error


def load_tokenizer(
    source: str | nn.Module,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The tokenizer of a model, by its name, or by the name that the model was loaded from. An
    adapter without its own tokenizer uses its base's."""
    module: Any = source
    name: str = source if isinstance(source, str) else module.config._name_or_path
    path, revision = locate(gguf.joined(name, gguf_file), revision)
    _refuse_damage(Path(path), (".json",))
    try:
        adapter = adapter_folder(path, revision)
        if adapter is not None:
            path, revision = str(adapter), None
            if not (adapter / "tokenizer_config.json").is_file():
                path, revision = base_of(adapter)
        tokenizer = _tokenizer(path, revision, trust_remote_code)
    except _UNLOADABLE as error:
        raise UserError(
            f"cannot load the tokenizer of '{name}': {reason(error)}; pass processing_class"
        ) from error
    return padded(tokenizer)


def _tokenizer(path: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    if gguf.is_gguf(path):
        return gguf.load_tokenizer(path, revision)
    own = get_tokenizer_config(path, revision=revision).get("tokenizer_class")
    return published_tokenizer(own, AutoTokenizer).from_pretrained(
        path, revision=revision, trust_remote_code=trust_remote_code
    )


def load_config(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The configuration of a complete model, by the folder or name that `locate` returns."""
    from transformers import AutoConfig

    if gguf.is_gguf(path):
        return gguf.load_config(path, revision)
    return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def load_teacher(name: str, tokenizer: Any, dtype: str | None) -> Any:
    """Load another model as the teacher of the student.

    Raises UserError if it cannot be loaded completely, if its tokenizer tokenizes texts differently
    from the student's `tokenizer`, or if it has no logits for some tokens.
    """
    model = load_model(name, dtype=dtype)
    texts = telling_texts(tokenizer)
    refuse_other_student(
        name,
        tokenizer,
        tokenized(load_tokenizer(name), texts),
        model.get_output_embeddings().weight.shape[0],
    )
    return model


Tokenized = Sequence[tuple[Sequence[int], str]]
"""Tokenized texts: ids, and the text that they decode to."""


def refuse_other_student(name: str, tokenizer: Any, theirs: Tokenized, rows: int) -> None:
    """Raises UserError if the teacher `name` cannot grade the tokens of a student with this
    tokenizer: `theirs` are the `telling_texts` tokenized by the teacher, `rows` is its number of
    logits."""
    if difference := told_apart(tokenizer, theirs):
        raise UserError(
            f"'{name}' has a different tokenizer from the student: {difference}. A teacher grades"
            " the student's own tokens, so both must have the same"
        )
    if rows < (needed := vocabulary(tokenizer)):
        raise UserError(f"'{name}' has logits for {rows} ids, but the tokenizer needs {needed}")


def telling_texts(tokenizer: Any) -> list[str]:
    """The texts by which this tokenizer is compared with another: texts in many scripts, and its
    special tokens."""
    # The padding token occurs in no text, unless it is also the end token.
    pad = tokenizer.pad_token if tokenizer.pad_token != tokenizer.eos_token else None
    added = (str(token) for token in tokenizer.added_tokens_decoder.values())
    return [*_TEXTS, *(token for token in added if token != pad)]


def tokenized(tokenizer: Any, texts: Sequence[str]) -> list[tuple[list[int], str]]:
    """Tokenize texts, without the special tokens that begin a prompt."""
    every = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return [(ids, tokenizer.decode(ids)) for ids in every]


def told_apart(tokenizer: Any, theirs: Tokenized) -> str | None:
    """The first difference between this tokenizer and another one, given the other's results on
    this one's `telling_texts`; None if they agree."""
    texts = telling_texts(tokenizer)
    for text, own, other in zip(texts, tokenized(tokenizer, texts), theirs, strict=True):
        if own[0] != other[0]:
            return f"{text!r} is {_some_ids(own[0])} here, {_some_ids(other[0])} there"
        if own[1] != other[1]:
            return f"{_some_ids(own[0])} is {own[1]!r} here, {other[1]!r} there"
    return None


def _some_ids(ids: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ids[:6]))}{', ...' if len(ids) > 6 else ''}]"


def padded(tokenizer: Any) -> Any:
    """The tokenizer, with the end-of-sequence token for padding if it has no padding token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def with_adapter(model: Any, config: Any, seed: int) -> Any:
    """Add a new adapter to the model. It depends only on the seed, so that a resumed run starts
    from the same one, whatever random numbers its process has drawn before."""
    from peft import get_peft_model
    from transformers import set_seed

    if hasattr(model, "peft_config"):
        raise UserError(
            f"'{model.config._name_or_path}' has an adapter already: leave 'lora' out to continue"
            " training it, or merge it first (opsd export --merge)"
        )
    set_seed(seed)
    if config.target_modules == "all-linear" and config.exclude_modules is None:
        config.exclude_modules = _beside_text(model)
    # The adapter's configuration records the commit of its base model.
    commit = getattr(model.config, "_commit_hash", None)
    try:
        return get_peft_model(model, config, revision=commit)
    except ValueError as error:
        raise UserError(f"model.lora: {' '.join(str(error).split())}") from error


def _beside_text(model: Any) -> str | None:
    """A pattern for the modules of a vision-language model that do not process text; None for other
    models."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    names = [name for name, module in model.named_modules() if module is decoder]
    inner = names and "." in names[0]
    return rf"(?!{re.escape(names[0])}\.).*" if inner else None


def accept_objectives(model: nn.Module) -> None:
    """Let the model's forward run a given function of the model instead, so that the student's
    trunk and the loss run inside whatever wraps the model."""
    original = model.forward

    def forward(*args: Any, objective: Any = None, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if objective is None else objective(model)

    model.forward = forward


def switch_randomness_off(model: nn.Module) -> None:
    """Switch off dropout and randomly skipped layers: a teacher that shares the student's weights
    must predict the same for the same text. Randomness under other names, such as noise in the
    routing of experts (which some models also use in evaluation), is detected by
    `agreement.refuse_other_training_pass`."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and _RANDOM.search(name):
                setattr(module, name, 0.0)


def refuse_named_adapter(model: Any) -> None:
    """Raises UserError for adapters with other names, which PEFT saves where checkpoints do not
    look."""
    names = list(getattr(model, "peft_config", {"default": None}))
    if names != ["default"]:
        raise UserError(
            f"the model has the adapter(s) {', '.join(names)}: there must be exactly one, named"
            " 'default' (as by get_peft_model)"
        )


def refuse_other_tokenizer(model: Any, tokenizer: Any) -> None:
    """Raises UserError for a tokenizer with ids for which the model has no embeddings. Added tokens
    do not count: some models list a few beyond their embeddings, which occur in no text."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but '{model.config._name_or_path}' only"
            f" {rows} embeddings: it belongs to another model"
        )


def vocabulary(tokenizer: Any) -> int:
    """One more than the largest id that the tokenizer can produce."""
    return max(tokenizer.get_vocab().values()) + 1


def context_length(model: Any, limit: int) -> int:
    """The maximum number of tokens: the configured limit, or the model's own if that is smaller."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(limit, own) if own else limit


def base_of(adapter: Path) -> tuple[str, str | None]:
    """The model that an adapter changes: its folder or Hub name, and its revision."""
    config = _adapter_config(adapter)
    if not config.base_model_name_or_path:
        raise UserError(f"{adapter / 'adapter_config.json'}: no base_model_name_or_path; add it")
    return resolve(config.base_model_name_or_path), config.revision


def adapter_folder(path: str, revision: str | None = None) -> Path | None:
    """The folder of an adapter, downloaded first if it is on the Hub; None for a complete model.

    Raises UserError if there is neither, and for an adapter without weights: the base model is not
    a substitute.
    """
    if gguf.is_gguf(path):
        gguf.refuse_missing(path)
        return None
    folder: Path | None = Path(path)
    if not Path(path).exists():
        try:
            folder = _downloaded_adapter(path, revision)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the model '{path}': {reason(error)}") from error
    if folder is None or not _is_adapter(str(folder)):
        return None
    refuse_lost_adapter(str(folder))
    return folder


def _downloaded_adapter(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    try:
        hf_hub_download(name, "adapter_config.json", revision=revision)
    except hub.LocalEntryNotFoundError:
        # Without the Hub, a model that was downloaded before can still be loaded.
        if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            raise
        return None
    except hub.EntryNotFoundError:
        return None
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(_ADAPTER_FILES)))


def refuse_lost_adapter(path: str) -> None:
    """Raises UserError for an adapter's folder without weights: the base model is not a
    substitute."""
    if _is_adapter(path) and not (Path(path) / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{path} has an adapter_config.json but no adapter_model.safetensors; not loaded"
        )


def reason(error: BaseException) -> str:
    """One line that says why something could not be loaded, and, if the Hub refuses it, what to
    do."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for kind, text in _REFUSALS:
        if any(isinstance(link, kind) for link in chain):
            return text
    if "trust_remote_code" in str(error):
        return "it comes with its own code, which runs only with model.trust_remote_code=true"
    if "model.safetensors" in str(error):
        return (
            "no weights in safetensors; pickled ones can run code when opened. Convert them if"
            " you trust them: AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cleaned(lines[0])


def _whole(path: str, **options: Any) -> Any:
    """Load a model from a checkpoint that has all its weights in the right shapes."""
    read = gguf.load if gguf.is_gguf(path) else _from_safetensors
    model, found = read(path, **options)
    wrong = [
        f"{key} is {tuple(is_)}, not {tuple(want)}" for key, is_, want in found["mismatched_keys"]
    ]
    wrong += [f"{key} is missing" for key in sorted(found["missing_keys"])]
    if wrong:
        its = "own metadata" if gguf.is_gguf(path) else "config.json"
        raise UserError(f"{path} is not the checkpoint of its {its}: {_some(wrong)}")
    model.config._commit_hash = _commit(path, options.get("revision"))
    refuse_nonfinite(model, path)
    mend_generation_config(model)
    look_both_ways(model)
    return model


def auto_model(model_type: str | None) -> Any:
    """Transformers' auto class for a model type; for types that exist only as vision-language
    models, the class for images and text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    sees = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    alone = sees and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if alone else AutoModelForCausalLM


def _from_safetensors(path: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A model, and Transformers' loading info."""
    from transformers import PreTrainedConfig

    _refuse_folder(Path(path))
    # Otherwise Transformers would ask a service on the Hub to convert pickled weights.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    content, _ = PreTrainedConfig.get_config_dict(path, revision=options.get("revision"))
    foreign = content.get("model_type") in PUBLISHED
    if foreign:
        options |= {"config": published_config(content), "key_mapping": published_names(content)}
    # Pickled weights are refused, because opening them can run code.
    loaded: Any = auto_model(content.get("model_type")).from_pretrained(
        path,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, found = loaded
    if foreign:  # else saving would restore the foreign names
        model._weight_conversions = []
    return model, found


def nonfinite(weights: Mapping[str, Any]) -> str | None:
    """The name of the first weight with NaN or infinite values; None if there is none."""
    for name, weight in weights.items():
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel():
            low, high = torch.aminmax(local(weight))
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                return name
    return None


def refuse_nonfinite(model: nn.Module, where: str) -> None:
    """Raises UserError for a model that would only ever compute NaN."""
    if name := nonfinite(dict(model.named_parameters())):
        raise UserError(
            f"{where}: the weight '{name}' contains NaN or infinite values: take an"
            " earlier checkpoint"
        )


def mend_generation_config(model: Any) -> None:
    """Fix generation configs that set sampling options but not `do_sample`, which Transformers
    loads but refuses to save. Raises UserError for any other invalid config."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
        return
    except ValueError:
        config.do_sample = True
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise UserError(
            f"'{model.config._name_or_path}': its generation_config.json cannot be saved with the"
            f" trained model: {' '.join(str(error).split())}"
        ) from error
    log(
        f"'{model.config._name_or_path}': its generation_config.json has sampling options but no"
        " do_sample; do_sample is set to true in what is saved"
    )


def _commit(path: str, revision: str | None) -> str | None:
    """The commit that a model was loaded from on the Hub; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(path).exists():
        return None
    repository, name = gguf.place_of(path) if gguf.is_gguf(path) else (path, "config.json")
    cached = try_to_load_from_cache(repository, name, revision=revision)
    return Path(cached).parents[name.count("/")].name if isinstance(cached, str) else None


def _under_adapter(folder: Path, *, trainable: bool, **options: Any) -> Any:
    """Load an adapter onto its base. PEFT only warns about missing weights, so they are checked
    here."""
    from peft import PeftModelForCausalLM

    config = _adapter_config(folder)
    refuse_prompt_learning(config)
    path, revision = base_of(folder)
    try:
        base = _whole(path, revision=revision, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the adapter {folder} changes the model '{path}', which cannot be loaded:"
            f" {reason(error)}"
        ) from error
    config.inference_mode = not trainable
    try:
        model = PeftModelForCausalLM(base, config)
        found = model.load_adapter(str(folder), "default", is_trainable=trainable)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"the adapter {folder} does not fit '{path}': {_first_lines(error)}"
        ) from error
    wrong = [f"{key} is missing" for key in found.missing_keys]
    wrong += [f"{key} has no place in it" for key in found.unexpected_keys]
    if wrong:
        raise UserError(f"the adapter {folder} does not fit '{path}': {_some(wrong)}")
    refuse_nonfinite(model, str(folder))
    return model


def _adapter_config(folder: Path) -> Any:
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        path = folder / "adapter_config.json"
        raise UserError(
            f"{path} does not describe an adapter that PEFT knows: {reason(error)}"
        ) from error


def _is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def _refuse_folder(folder: Path) -> None:
    """Raises UserError for a folder without a complete model in safetensors."""
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        raise UserError(f"{folder} is a run folder; its trained model is {folder / 'model'}")
    if _is_adapter(str(folder)):
        raise UserError(
            f"{folder} is an adapter, not a whole model: merge it (opsd export --merge)"
        )
    if not (folder / "config.json").is_file() and (files := sorted(folder.glob("*.gguf"))):
        raise UserError(f"{folder} contains GGUF files: name one of them, as in {files[0]}")
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if pickled and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} has pickled weights ({pickled[0].name}), which can run code when opened."
            ' If you trust them: python -c "from transformers import AutoModelForCausalLM as M;'
            f" M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )


def _refuse_damage(folder: Path, kinds: tuple[str, ...]) -> None:
    """Raises UserError for a damaged file of a model, as far as a checkpoint's checksums or the
    format of safetensors and JSON show it."""
    files = [
        file
        for file in sorted(folder.glob("*.*"))
        if file.suffix in kinds and (file.suffix != ".json" or file.name in _JSON)
    ]
    if damage := checkpoint.changed(folder, {file.name for file in files}):
        raise UserError(f"{folder}: {damage}: take another checkpoint")
    for file in files:
        try:
            _open(file)
        except (SafetensorError, ValueError) as error:
            raise UserError(f"{file} is damaged ({error}): take another copy of it") from error


def _open(file: Path) -> None:
    if file.suffix == ".json":
        json.loads(file.read_bytes())
        return
    with safe_open(file, "pt"):
        pass


def _some(wrong: list[str]) -> str:
    more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
    return ", ".join(wrong[:2]) + more


def _first_lines(error: Exception) -> str:
    """PEFT names the first mismatched weight in the second line of its message."""
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
