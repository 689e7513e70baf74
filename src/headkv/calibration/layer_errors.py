"""What compressing a layer's cache does to the layer's output, while the full cache answers.

CompressKV's offline error measure (arXiv 2508.02401): every layer also attends what a probe budget
would have left of the prompt, and the error is taken behind the output projection, at decode steps
only. Hidden states are those of the full cache, so no layer's error reaches another.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from headkv.cache import CompressedLayer, LayerPlan, plan_layers
from headkv.cache.layer_prompt import LayerPrompt
from headkv.cache.module_parts import PROJECTIONS
from headkv.cache.sliding_layer import SlidingLayer
from headkv.errors import UserError
from headkv.generation.decoding import Stopping, decode
from headkv.generation.prefill import prefill
from headkv.kernels import attend, causal_tail, join
from headkv.methods import Method, build_method
from headkv.models.prompts import EncodedPrompt

TINY = 1e-5
"""What the published formula adds to a norm before dividing by it."""


class ProbeLayer(CompressedLayer):
    """Attends the whole prompt, and beside it what the probe would have left of it.

    Attributes:
        outputs: attention outputs of the latest forward pass, with the whole prompt and with what
            the probe left of it, `[batch, query_head, token, value_dim]` each. Only the first goes
            on into the model.
    """

    outputs: tuple[Tensor, Tensor]

    def __init__(self, plan: LayerPlan, template_tokens: int, probe: Method) -> None:
        super().__init__(plan, template_tokens, build_method("fullkv"))
        self.probe = probe

    def receive(self, prompt: LayerPrompt) -> None:
        """Keeps the whole prompt, and a compressed copy."""
        super().receive(prompt)
        self.small = prompt.compress(self.probe)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attends as the full cache does; generated tokens are whole on both sides.

        Arguments and result as `CompressedLayer.attend`.
        """
        assert self.prefix is not None
        tail = causal_tail(query, keys, values, scaling, softcap)
        full = join(attend(query, self.prefix, scaling, softcap), tail)
        self.outputs = full, join(attend(query, self.small, scaling, softcap), tail)
        return full


def output_projections(model: nn.Module, layers: int) -> list[nn.Module]:
    """Returns the output projection of every attention layer, by its module's `layer_idx`.

    Args:
        model: a decoder.
        layers: number of layers.

    Raises:
        UserError: some layer has none that is known, or more than one.
    """
    found: list[tuple[int, nn.Module]] = []
    for module in model.modules():
        known = [name for name in PROJECTIONS if isinstance(getattr(module, name, None), nn.Module)]
        layer = getattr(module, "layer_idx", None)
        if known and isinstance(layer, int):
            found.append((layer, getattr(module, known[0])))
    if sorted(layer for layer, _ in found) != list(range(layers)):
        raise UserError(
            f"{type(model).__name__}: {len(found)} output projections found in {layers} layers",
            allowed=f"decoders whose attention calls it one of {', '.join(PROJECTIONS)}",
            do="use another model, or leave layer_importance out (the same budget in every layer)",
        )
    return [projection for _, projection in sorted(found, key=lambda pair: pair[0])]


def layer_errors(
    model: Any, prompt: EncodedPrompt, probe: Method, stopping: Stopping
) -> tuple[Tensor, int]:
    """Measures the relative error of every layer's output, summed over one answer's decode steps.

    The model answers greedily with the full cache; the answer is then fed in one pass, which gives
    the queries of all decode steps at once.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        prompt: the encoded prompt.
        probe: the method that compresses; its budgets must be known before the prompt.
        stopping: says when the answer ends.

    Returns:
        float64 `[layer]` on the CPU, zero at sliding-window layers, and the number of steps.
    """
    plans = plan_layers(model.config)
    projections = output_projections(model, len(plans))
    full = [layer for layer, plan in enumerate(plans) if plan.index is not None]
    if len(full) < len(plans):
        probe = probe.for_layers(full)
    ids = torch.tensor([prompt.input_ids], device=model.device)
    prefilled = prefill(model, {"input_ids": ids}, prompt.template_tokens)
    answer = decode(model, prefilled, [prefilled.compress(build_method("fullkv"))], stopping)[0][0]
    errors = torch.zeros(len(plans), dtype=torch.float64)
    if not answer:
        return errors, 0
    layers = [
        SlidingLayer(plan, prompt.template_tokens)
        if plan.index is None
        else ProbeLayer(plan, prompt.template_tokens, probe)
        for plan in plans
    ]
    for layer, recorded in zip(layers, prefilled.layers, strict=True):
        layer.receive(recorded)
    with torch.no_grad():
        tokens = torch.tensor([answer], device=model.device)
        model(input_ids=tokens, past_key_values=Cache(layers=list(layers)), use_cache=True)
        for index in full:
            layer = layers[index]
            assert isinstance(layer, ProbeLayer)
            exact, small = (
                projections[index](output.transpose(1, 2).flatten(2))[0].double().cpu()
                for output in layer.outputs
            )
            relative = (small - exact).norm(dim=-1) / (exact.norm(dim=-1) + TINY)
            errors[index] = relative.sum()
    return errors, len(answer)
