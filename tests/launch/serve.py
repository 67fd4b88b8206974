"""Stands for `vllm serve` as a command: answers from a model on a CPU, and takes its time."""

from __future__ import annotations

import argparse
import threading
import time

from tests.rollout.model_server import ModelServer

from opsd.lm.loading import load_model, load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--logprobs-mode", choices=["processed_logprobs"], required=True)
    parser.add_argument("--disable-uvicorn-access-log", action="store_true", required=True)
    parser.add_argument("--enable-lora", action="store_true", required=True)
    parser.add_argument("--max-lora-rank", type=int, required=True)
    parser.add_argument("--max-loras", type=int, required=True)
    asked = parser.parse_args()
    model = load_model(asked.model).eval()
    server = ModelServer(model, load_tokenizer(asked.model), asked.host, asked.port)
    server.heard = lambda: time.sleep(2.0)
    print("serving", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
