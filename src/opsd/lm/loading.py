"""Loads models and tokenizers, by hub name, folder, GGUF file, or the name of a built-in one."""

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
"""Attributes by which modules are told how much chance there is in a training pass."""
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
"""What tokenizers are told apart by: digits, code, marks, white space, many scripts."""
_REFUSALS: tuple[tuple[type[BaseException], str], ...] = (
    (hub.GatedRepoError, "it is gated: ask for access on its page, then log in (hf auth login)"),
    (
        hub.RepositoryNotFoundError,
        "neither a folder here nor a repository of the hub that you may read; check the spelling,"
        " and log in for a private one (hf auth login)",
    ),
    (hub.RevisionNotFoundError, "the repository has no such revision"),
    (hub.HFValidationError, "neither a folder here nor a name that the hub could have"),
    (
        hub.LocalEntryNotFoundError,
        "no folder here, not in the cache of downloads, and the hub cannot be reached",
    ),
)


_JSON = {
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    "model.safetensors.index.json",
}
"""What Transformers and PEFT read of a model's folder."""

_UNLOADABLE = (OSError, ValueError, ImportError, SafetensorError, hub.StrictDataclassError)


def locate(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """A model's folder or hub name, and the revision, which may be written `name@revision`."""
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
    """A causal language model. Weights that are `trained` are kept in float32; a base that only an
    adapter changes takes the checkpoint's own type, or bfloat16 under `bf16`; `dtype` decides
    otherwise. A folder or repository with an adapter gives its base under it; training goes on
    with the adapter. `quantization` keeps a base that only an adapter changes in 4 or 8 bits. A
    GGUF file, by its own name or as the `gguf_file` of a folder or repository, is read into float32
    where nothing else is asked for. `options` are Transformers' (`attn_implementation`,
    `trust_remote_code`).

    Raises UserError where the model or its adapter cannot be loaded whole: never another one
    instead, nor one with weights drawn at random, nor a checkpoint's that are not as they were
    written.
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
                raise UserError("model.quantization: quantized weights are not trained: add 'lora'")
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
    """The tokenizer of a model, by its name or by the name it was loaded from. An adapter without
    a tokenizer of its own has its base's."""
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
    """The configuration of a whole model, by the folder or name that `locate` gives."""
    from transformers import AutoConfig

    if gguf.is_gguf(path):
        return gguf.load_config(path, revision)
    return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def load_teacher(name: str, tokenizer: Any, dtype: str | None) -> Any:
    """Another model than the student, that is to read what the student writes.

    Raises UserError where it cannot be loaded whole, where its tokenizer makes other tokens of
    texts than the student's `tokenizer`, and where it has no logits for some of them.
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
"""What a tokenizer makes of texts: ids, and the text of these."""


def refuse_other_student(name: str, tokenizer: Any, theirs: Tokenized, rows: int) -> None:
    """Raises UserError where the teacher `name` cannot grade the tokens of a student with this
    tokenizer: `theirs` is what its own makes of `telling_texts`, `rows` for how many ids it has
    logits."""
    if difference := told_apart(tokenizer, theirs):
        raise UserError(
            f"'{name}' has another tokenizer than the student: {difference}. A teacher grades the"
            " student's own tokens, so that both must have the same"
        )
    if rows < (needed := vocabulary(tokenizer)):
        raise UserError(f"'{name}' has logits for {rows} ids, but the tokenizer makes {needed}")


def telling_texts(tokenizer: Any) -> list[str]:
    """What another tokenizer is told apart from this one by: texts in many scripts, and this one's
    special tokens."""
    # What pads is in no text, unless it also ends them.
    pad = tokenizer.pad_token if tokenizer.pad_token != tokenizer.eos_token else None
    added = (str(token) for token in tokenizer.added_tokens_decoder.values())
    return [*_TEXTS, *(token for token in added if token != pad)]


def tokenized(tokenizer: Any, texts: Sequence[str]) -> list[tuple[list[int], str]]:
    """What a tokenizer makes of texts, each without what it would begin a prompt with."""
    every = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return [(ids, tokenizer.decode(ids)) for ids in every]


def told_apart(tokenizer: Any, theirs: Tokenized) -> str | None:
    """What two tokenizers do differently, of the second of which this is what it makes of the
    first one's `telling_texts`; None where they do the same."""
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
    """The tokenizer, with its end-of-sequence token for padding where it names none."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def with_adapter(model: Any, config: Any, seed: int) -> Any:
    """The model under a new adapter, which the seed alone determines: a resumed run starts from the
    same one, whatever was drawn before it in its process."""
    from peft import get_peft_model
    from transformers import set_seed

    if hasattr(model, "peft_config"):
        raise UserError(
            f"'{model.config._name_or_path}' has an adapter already: leave 'lora' out to train"
            " that one on, or merge it first (opsd export --merge)"
        )
    set_seed(seed)
    if config.target_modules == "all-linear" and config.exclude_modules is None:
        config.exclude_modules = _beside_text(model)
    # The adapter remembers the commit of the base that it was trained on.
    commit = getattr(model.config, "_commit_hash", None)
    try:
        return get_peft_model(model, config, revision=commit)
    except ValueError as error:
        raise UserError(f"model.lora: {' '.join(str(error).split())}") from error


def _beside_text(model: Any) -> str | None:
    """The modules of a vision-language model that read no text, as a pattern; None of others."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    names = [name for name, module in model.named_modules() if module is decoder]
    inner = names and "." in names[0]
    return rf"(?!{re.escape(names[0])}\.).*" if inner else None


def accept_objectives(model: nn.Module) -> None:
    """Lets the model's forward run a given function of the model instead: so the student's trunk
    and the loss run inside whatever wraps the model."""
    original = model.forward

    def forward(*args: Any, objective: Any = None, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if objective is None else objective(model)

    model.forward = forward


def switch_randomness_off(model: nn.Module) -> None:
    """A teacher that is the student must read the same text the same way: no dropout, no layer that
    is skipped at random. What other names hide, such as noise in the routing of experts (which some
    models also reckon with in evaluation), is for `start.refuse_other_training_pass` to find."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and _RANDOM.search(name):
                setattr(module, name, 0.0)


def refuse_named_adapter(model: Any) -> None:
    """Raises UserError for adapters that PEFT saves where no checkpoint is looked for."""
    names = list(getattr(model, "peft_config", {"default": None}))
    if names != ["default"]:
        raise UserError(
            f"the model has the adapter(s) {', '.join(names)}: one is trained, and its name is"
            " 'default' (get_peft_model's own)"
        )


def refuse_other_tokenizer(model: Any, tokenizer: Any) -> None:
    """Raises UserError for a tokenizer whose ids the model has no embeddings for. Added tokens do
    not count: some models list a few beyond their embeddings, which no text produces."""
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
    """Tokens that fit: the configured limit, or the model's own if that is smaller."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(limit, own) if own else limit


def base_of(adapter: Path) -> tuple[str, str | None]:
    """The model that an adapter changes: its folder or hub name, and its revision."""
    config = _adapter_config(adapter)
    if not config.base_model_name_or_path:
        raise UserError(f"{adapter / 'adapter_config.json'}: no base_model_name_or_path; add it")
    return resolve(config.base_model_name_or_path), config.revision


def adapter_folder(path: str, revision: str | None = None) -> Path | None:
    """The folder of an adapter, downloaded first where it is on the hub; None for a whole model.

    Raises UserError where there is neither, and for an adapter without weights: the base model is
    no substitute.
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
        # Without the hub, a model that was downloaded before can still be read.
        if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            raise
        return None
    except hub.EntryNotFoundError:
        return None
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(_ADAPTER_FILES)))


def refuse_lost_adapter(path: str) -> None:
    """Raises UserError for an adapter's folder without weights: the base model is no substitute."""
    if _is_adapter(path) and not (Path(path) / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{path} has an adapter_config.json but no adapter_model.safetensors; nothing loaded"
        )


def reason(error: BaseException) -> str:
    """One line on why something could not be loaded, and for the hub's refusals what to do."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for kind, text in _REFUSALS:
        if any(isinstance(link, kind) for link in chain):
            return text
    if "trust_remote_code" in str(error):
        return "it brings code of its own, which runs only under model.trust_remote_code=true"
    if "model.safetensors" in str(error):
        return (
            "no weights in safetensors; pickled ones can run code when opened. Convert them where"
            " you trust them: AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cleaned(lines[0])


def _whole(path: str, **options: Any) -> Any:
    """A model from a checkpoint that has every weight of it, in the right shape."""
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
    """Transformers' class that makes models of a type: of one that it knows only as seeing, too,
    the class for images and text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    sees = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    alone = sees and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if alone else AutoModelForCausalLM


def _from_safetensors(path: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A model, and what Transformers says of its loading."""
    from transformers import PreTrainedConfig

    _refuse_folder(Path(path))
    # Transformers would have a service on the hub convert them.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    content, _ = PreTrainedConfig.get_config_dict(path, revision=options.get("revision"))
    foreign = content.get("model_type") in PUBLISHED
    if foreign:
        options |= {"config": published_config(content), "key_mapping": published_names(content)}
    # Pickled weights are refused: they can run code when they are opened.
    loaded: Any = auto_model(content.get("model_type")).from_pretrained(
        path,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, found = loaded
    if foreign:  # or saving would give weights the names back that nothing else here knows
        model._weight_conversions = []
    return model, found


def nonfinite(weights: Mapping[str, Any]) -> str | None:
    """The first weight that holds a number that is none (NaN, infinite); None where none does."""
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
    """Some models say that they are not to be sampled and how, which Transformers reads, and
    refuses to write again. Raises UserError for what that does not explain."""
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
            f"'{model.config._name_or_path}': its generation_config.json cannot be written again"
            f" with the trained model: {' '.join(str(error).split())}"
        ) from error
    log(
        f"'{model.config._name_or_path}': its generation_config.json says how to sample, and not"
        " to; do_sample is set to true in what is saved"
    )


def _commit(path: str, revision: str | None) -> str | None:
    """The commit that a model of the hub was read from; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(path).exists():
        return None
    repository, name = gguf.place_of(path) if gguf.is_gguf(path) else (path, "config.json")
    cached = try_to_load_from_cache(repository, name, revision=revision)
    return Path(cached).parents[name.count("/")].name if isinstance(cached, str) else None


def _under_adapter(folder: Path, *, trainable: bool, **options: Any) -> Any:
    """An adapter over its base. PEFT only warns of weights that it does not find."""
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
        raise UserError(f"{path} describes no adapter that PEFT knows: {reason(error)}") from error


def _is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def _refuse_folder(folder: Path) -> None:
    """Refuses a folder that holds no whole model in safetensors."""
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        raise UserError(f"{folder} is a run folder; its trained model is {folder / 'model'}")
    if _is_adapter(str(folder)):
        raise UserError(
            f"{folder} is an adapter, not a whole model: merge it (opsd export --merge)"
        )
    if not (folder / "config.json").is_file() and (files := sorted(folder.glob("*.gguf"))):
        raise UserError(f"{folder} holds GGUF files: name one of them, as in {files[0]}")
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if pickled and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} holds pickled weights ({pickled[0].name}), which can run code when opened."
            ' Where you trust them: python -c "from transformers import AutoModelForCausalLM as M;'
            f" M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )


def _refuse_damage(folder: Path, kinds: tuple[str, ...]) -> None:
    """Names the file of a model that is not as it was written, as far as a checkpoint's checksums
    or the form of safetensors and JSON tell."""
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
    """PEFT names the first weight that does not fit in its second line."""
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
