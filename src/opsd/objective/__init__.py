"""The training objective: which distributions are matched, and how token losses are added up.

Shape letters: `N` taught tokens (row -> rollout, position), `V` vocabulary, `D` hidden, `K` views,
`R` rollouts, `C` rows of a chunk. Log-probabilities are natural logs in float32; divergences are
in nats per token.
"""
