"""What can be read off an attention module: its output projection and its rotation (RoPE).

Nothing is stored on the module, and no model family is known by name: the rotation is undone by
the model's own function, found beside its attention class.
"""

import inspect
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headkv.errors import UserError

PROJECTIONS = ("o_proj", "out_proj", "dense", "wo", "c_proj")
"""Names that decoders give the output projection of attention."""


def output_projection(module: nn.Module) -> nn.Module:
    """The output projection of an attention module.

    Raises:
        UserError: it has none under a known name.
    """
    for name in PROJECTIONS:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    raise UserError(
        f"{type(module).__name__} has no output projection under a known name",
        allowed=", ".join(PROJECTIONS),
        do="use a method that does not read it, or another model",
    )


@dataclass(frozen=True)
class ModuleParts:
    """An attention module, and what methods read of it.

    Attributes:
        module: the attention module of a layer.
        query_heads: its query heads.
    """

    module: nn.Module
    query_heads: int

    def output_projection(self) -> Tensor:
        """The output projection by query head, `[query_head, value_dim, hidden]`."""
        projection = output_projection(self.module)
        weight: Tensor = projection.weight  # type: ignore[assignment]
        # Conv1D stores `[in, out]`, Linear `[out, in]`.
        rows = weight if type(projection).__name__ == "Conv1D" else weight.T
        return rows.detach().unflatten(0, (self.query_heads, -1))

    def unrotate(self, queries: Tensor, positions: Tensor) -> Tensor:
        """Queries before RoPE: a rotation is undone by rotating back.

        Args:
            queries: after RoPE, `[query_head, token, head_dim]`.
            positions: of the tokens, int64 `[token]`.

        Returns:
            Of the shape of `queries`.

        Raises:
            UserError: the model's rotation is not found.
        """
        code = sys.modules[type(self.module).__module__]
        rotate = getattr(code, "apply_rotary_pos_emb", None)
        kinds: list[Any] = [
            each
            for name, each in vars(code).items()
            if name.endswith("RotaryEmbedding") and inspect.isclass(each)
        ]
        if rotate is None or len(kinds) != 1:
            raise UserError(
                f"the rotation of {type(self.module).__name__}'s queries is not known",
                allowed="models with RoPE in the form that transformers gives it",
                do="use a method that does not read query statistics",
            )
        rotary = kinds[0](config=self.module.config).to(queries.device)
        asked: dict[str, Any] = {}
        if "layer_type" in inspect.signature(rotary.forward).parameters:
            asked["layer_type"] = getattr(self.module, "layer_type", None)
        with torch.no_grad():
            cos, sin = rotary(queries.float()[None], positions[None], **asked)
            # Some kinds of RoPE scale as they rotate: that is undone too.
            scale = (cos**2 + sin**2).mean()
            back, _ = rotate(
                queries.float()[None], queries.float()[None], cos / scale, -sin / scale
            )
        return back[0].to(queries.dtype)
