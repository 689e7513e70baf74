"""Head scores from texts, against queries and keys hooked off a tiny model and rotated by hand."""

import math

import pytest
import torch

from headkv import UserError, build_method, prefill
from headkv.calibration.grids import TextTestGrid
from headkv.calibration.text_heads import duo, kvzip_head


def turned(row: list[float], position: int, theta: float) -> list[float]:
    """RoPE of one head: halves, as Llama has them."""
    half, out = len(row) // 2, list(row)
    for i in range(half):
        angle = position / theta ** (2 * i / len(row))
        a, b = row[i], row[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def test_duo_by_hand(tiny) -> None:
    plain: dict[str, list[torch.Tensor]] = {"q_proj": [], "k_proj": []}
    hooks = [
        getattr(layer.self_attn, name).register_forward_hook(
            lambda module, given, out, name=name: plain[name].append(out[0].double())
        )
        for layer in tiny.model.layers
        for name in plain
    ]
    ids = torch.randint(3, 97, (1, 50), generator=torch.Generator().manual_seed(1))
    layers = prefill(tiny, {"input_ids": ids}).layers
    for hook in hooks:
        hook.remove()
    theta = tiny.config.rope_parameters["rope_theta"]
    for layer, prompt in enumerate(layers):
        got = duo(prompt.evidence[0], 20)
        queries = plain["q_proj"][layer].mean(0).view(6, 16).tolist()
        keys = plain["k_proj"][layer].mean(0).view(2, 16).tolist()
        for head in range(6):
            query = turned(queries[head], 19, theta)
            logits = [
                sum(a * b for a, b in zip(query, turned(keys[head // 3], p, theta), strict=True))
                / 4
                for p in range(20)
            ]
            total = sum(math.exp(logit) for logit in logits)
            running, sums = 0.0, []
            for logit in logits:
                running += math.exp(logit) / total
                sums.append(running)
            assert math.isclose(float(got[head]), sum(sums) / 20, abs_tol=1e-6)


def test_kvzip_heads_are_the_greatest_scores_of_kvzip(tiny) -> None:
    ids = torch.randint(3, 97, (1, 50), generator=torch.Generator().manual_seed(1))
    method = build_method("kvzip", 20, window_size=1)
    for prompt in prefill(tiny, {"input_ids": ids}, methods=[method]).layers:
        scores = method.scorer.scores(prompt.evidence[0], 2)
        last = prompt.evidence[0].second_pass("repetition")[:, -1].view(2, 3).amax(1)
        wanted = torch.maximum(scores[:, 4:].amax(1), last).double()
        assert torch.equal(kvzip_head(prompt.evidence[0], 4), wanted.repeat_interleave(3))


@pytest.mark.parametrize(
    "change",
    [{"kind": "semantic"}, {"lengths": [4]}, {"depths": 0}, {"lengths": []}, {"positions": 1}],
)
def test_settings_out_of_bounds_are_refused(change: dict) -> None:
    with pytest.raises(UserError):
        TextTestGrid(**change)
