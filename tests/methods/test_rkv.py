"""R-KV against its steps written out with loops."""

import math

import torch

from headkv import Evidence
from headkv.methods.scorers.rkv import RkvScorer


def plain(queries: torch.Tensor, keys: torch.Tensor, window: int) -> list[list[float]]:
    """Importance less redundancy of every candidate, by KV head."""
    heads, kv_heads, tokens = len(queries), len(keys), keys.shape[1]
    group, dim, candidates = heads // kv_heads, keys.shape[2], tokens - window
    scores = []
    for head in range(kv_heads):
        mean = [0.0] * candidates
        for place in range(queries.shape[1] - window, queries.shape[1]):
            logits = [
                max(
                    float(queries[head * group + g, place] @ keys[head, t]) / math.sqrt(dim)
                    for g in range(group)
                )
                for t in range(candidates)
            ]
            total = sum(map(math.exp, logits))
            mean = [m + math.exp(x) / total / window for m, x in zip(mean, logits, strict=True)]
        pooled = [max(mean[max(t - 3, 0) : t + 4]) for t in range(candidates)]
        unit = [key / key.norm() for key in keys[head].double()]
        columns = [0.0] * tokens
        for i in range(tokens):
            row = [0.0 if i == j else float(unit[i] @ unit[j]) for j in range(tokens)]
            alike = [j for j in range(tokens) if row[j] > 0.5]
            if alike:
                row[alike[-1]] = 0.0
            columns = [c + x / tokens for c, x in zip(columns, row, strict=True)]
        total = sum(map(math.exp, columns))
        scores.append(
            [0.07 * pooled[t] - 0.93 * math.exp(columns[t]) / total for t in range(candidates)]
        )
    return scores


def test_scores_are_those_of_the_paper_s_steps(monkeypatch) -> None:
    torch.manual_seed(0)
    keys = torch.randn(2, 1, 16) + torch.randn(2, 40, 16) * 0.8  # many are alike
    queries = torch.randn(6, 12, 16)
    wanted = torch.tensor(plain(queries, keys, 8))
    evidence = Evidence(queries, keys, 0)
    scorer = RkvScorer(window_size=8)
    assert torch.allclose(scorer.scores(evidence, 2), wanted.float(), atol=1e-6)
    monkeypatch.setattr("headkv.methods.scorers.rkv._CHUNK", 2 * 40 * 7)  # in several pieces
    assert torch.allclose(scorer.scores(evidence, 2), wanted.float(), atol=1e-6)


def test_a_repeated_token_goes_but_for_its_latest_copy() -> None:
    torch.manual_seed(0)
    keys = torch.nn.functional.one_hot(torch.arange(24), 32).float()[None] * 4
    keys[0, [3, 9, 15]] = keys[0, 3].clone()
    evidence = Evidence(torch.zeros(1, 8, 32), keys, 0)
    scores = RkvScorer(window_size=8).scores(evidence, 1)[0]
    assert scores[3] < scores[4] and scores[9] < scores[4] and scores[15] > scores[3]
