"""Who generates, as a recipe says it. An engine is one file beside this one, and a name below."""

from __future__ import annotations

from typing import Annotated

from opsd.parts import Slot
from opsd.rollout.engine import EngineChoice
from opsd.rollout.hf import HF
from opsd.rollout.vllm import VLLM
from opsd.rollout.vllm_server import VLLMServer

AnyEngine = Annotated[EngineChoice, Slot("engine", EngineChoice, (HF, VLLM, VLLMServer))]
