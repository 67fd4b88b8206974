"""One token's attention to the cache without copies of what heads share: the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.conftest import tiny_model
from tests.lm.test_architectures import ARCHITECTURES, save_tiny
from transformers import DynamicCache

from opsd.lm import attention
from opsd.lm.attention import shared_heads
from opsd.lm.forward import causal_lm, read_on, trunk_of
from opsd.lm.loading import load_model


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_attention(masked: bool):
    """Against the definition, head by head, in float64."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 1, 8, generator=draw)
    key, value = torch.randn(2, 3, 2, 11, 8, generator=draw)
    mask = torch.ones(3, 1, 1, 11, dtype=torch.bool)
    mask[1, ..., :4] = False
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    given = mask if masked else None
    read, _ = attention._grouped(module, query, key, value, given, scaling=0.3)
    q, k, v = (x.double().numpy() for x in (query, key, value))
    for row in range(3):
        for head in range(6):
            scores = 0.3 * k[row, head // 3] @ q[row, head, 0]
            if masked:
                scores[~mask[row, 0, 0].numpy()] = -np.inf
            weights = np.exp(scores - scores.max())
            wanted = weights @ v[row, head // 3] / weights.sum()
            assert np.abs(read[row, 0, head].numpy() - wanted).max() < 1e-6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_reads_on_as_it_does_otherwise(name: str, tmp_path: Path, tokenizer):
    model = load_model(str(save_tiny(name, tokenizer, tmp_path))).eval()
    before = causal_lm(model).config._attn_implementation
    ids = torch.tensor([[3, 3, 5, 9, 2, 4], [7, 8, 5, 2, 1, 6]])
    mask = torch.ones_like(ids)
    mask[0, :2] = 0

    def read() -> torch.Tensor:
        cache = DynamicCache(config=causal_lm(model).config)
        read_on(trunk_of(model), ids[:, :5], mask[:, :5], cache)
        return read_on(trunk_of(model), ids[:, 5:], mask, cache)

    with torch.no_grad():
        wanted = read()
        with shared_heads(model):
            told = read()
    torch.testing.assert_close(told, wanted, rtol=0, atol=1e-5)
    assert causal_lm(model).config._attn_implementation == before


def test_no_keys_are_copied_for_heads(monkeypatch: pytest.MonkeyPatch):
    """And what ends the writing leaves the model's own attention."""
    model = tiny_model(64).eval()
    config = model.config
    assert config._attn_implementation == "sdpa"
    assert config.num_attention_heads > config.num_key_value_heads
    seen = []
    plain = attention.scaled_dot_product_attention

    def noted(query, key, value, *given, **options):
        seen.append((tuple(query.shape), tuple(key.shape)))
        return plain(query, key, value, *given, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", noted)
    groups = config.num_attention_heads // config.num_key_value_heads
    with pytest.raises(KeyboardInterrupt), shared_heads(model), torch.no_grad():
        cache = DynamicCache(config=config)
        read_on(model.model, torch.tensor([[3, 4, 5]]), torch.ones(1, 3).long(), cache)
        read_on(model.model, torch.tensor([[6]]), torch.ones(1, 4).long(), cache)
        raise KeyboardInterrupt
    assert len(seen) == config.num_hidden_layers
    for query, key in seen:
        assert query[1:3] == (config.num_key_value_heads, groups) and key[1:3] == (query[1], 4)
    assert config._attn_implementation == "sdpa"
