"""The engines that a recipe can choose. An engine is one file next to this one, and a name
below."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from opsd.parts import Slot, part
from opsd.rollout.engine import Engine, EngineChoice, EngineSetup
from opsd.rollout.sglang_server import SGLangServer
from opsd.rollout.vllm import VLLM
from opsd.rollout.vllm_server import VLLMServer


@part
class HF(EngineChoice):
    """The model itself, as loaded by Transformers: during training, the model that is trained. A
    masked diffusion model generates block by block."""

    type: Literal["hf"] = "hf"
    shares_model: ClassVar[bool] = True

    def start(self, setup: EngineSetup) -> Engine:
        # Imported here, so that recipes can be read without transformers.
        from opsd.lm.diffusion import masked_diffusion
        from opsd.rollout.denoise import DenoisingEngine
        from opsd.rollout.hf import HFEngine

        kind = HFEngine if masked_diffusion(setup.model) is None else DenoisingEngine
        return kind(
            setup.model,
            eos_ids=setup.eos_ids,
            pad_id=setup.tokenizer.pad_token_id,
            vocab=setup.vocab,
            batch_tokens=setup.batch_tokens,
        )


AnyEngine = Annotated[
    EngineChoice, Slot("engine", EngineChoice, (HF, VLLM, VLLMServer, SGLangServer))
]
