"""What can be read off an attention module: its output projection and its rotation (RoPE).

Nothing is stored on the module, and no model family is known by name: the rotation is undone by
the model's own function, found beside its attention class.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headkv.errors import UserError

PROJECTIONS = ("o_proj", "out_proj", "dense", "wo", "c_proj")
"""Names that decoders give the output projection of attention."""

_PIECE = 512  # tokens that are rotated at a time: on a CPU they stay in its cache


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

    def unrotate(self, states: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys before RoPE: a rotation is undone by rotating back.

        Args:
            states: after RoPE, `[head, token, head_dim]`.
            positions: of the tokens, int64 `[token]`.

        Returns:
            float32, of the shape of `states`.

        Raises:
            UserError: the model's rotation is not found.
        """
        rotate, cos, sin = self._rotation(positions)
        # Some kinds of RoPE scale as they rotate: that is undone too.
        scale = (cos**2 + sin**2).mean()
        back = torch.empty_like(states, dtype=torch.float32)
        for first in range(0, len(positions), _PIECE):
            here = slice(first, first + _PIECE)
            given, turn = (
                states[None, :, here].float(),
                (cos[:, here] / scale, -sin[:, here] / scale),
            )
            back[:, here] = rotate(given, given[:, :1], *turn)[0][0]
        return back

    def mean_rotation(self, positions: Tensor, head_dim: int) -> Tensor:
        """The mean of RoPE's rotations to some positions, as a matrix.

        Args:
            positions: int64 `[position]`.
            head_dim: of queries and keys.

        Returns:
            float32 `[head_dim, head_dim]`: a row vector times it is rotated, on average.

        Raises:
            UserError: the model's rotation is not found.
        """
        rotate, cos, sin = self._rotation(positions)
        units = torch.eye(head_dim, device=positions.device)[None, :, None]
        mean = [side.mean(dim=1, keepdim=True) for side in (cos, sin)]  # linear in both
        turned: Tensor = rotate(units, units, *mean)[0][0, :, 0]
        return turned

    def _rotation(self, positions: Tensor) -> tuple[Callable[..., Any], Tensor, Tensor]:
        """The model's own function that rotates, and its cosines and sines at positions."""
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
                do="use a method that does not read queries or keys before it",
            )
        rotary = kinds[0](config=self.module.config).to(positions.device)
        asked: dict[str, Any] = {}
        if "layer_type" in inspect.signature(rotary.forward).parameters:
            asked["layer_type"] = getattr(self.module, "layer_type", None)
        with torch.no_grad():
            like = torch.empty(0, dtype=torch.float32, device=positions.device)
            cos, sin = rotary(like, positions[None], **asked)
        return rotate, cos, sin
