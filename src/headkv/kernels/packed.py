"""Numbers of 8, 4 or 2 bits: codes in bytes, and the scales that make numbers of them again.

The layout is KIVI's (arXiv 2402.02750): entries are cut into groups of 64. In a group every channel
of the keys has a scale and a zero of its own (outliers of keys sit in channels), and every entry's
values have one for each 64 channels. A number is `code * scale + zero`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.errors import UserError

GROUP = 64  # entries that share a scale of each key channel; also channels, for values


def entries_in_bytes_of(entries: int, bits: int, head_dim: int, uneven: bool = False) -> int:
    """Most entries of fewer bits that occupy no more than so many entries of 16 bits.

    Args:
        entries: of 16 bits, of one segment.
        bits: 8, 4 or 2.
        head_dim: width of keys and of values.
        uneven: whether segments differ: then half a group is left over of each on average, and
            the result holds for the mean.
    """
    room, plain = entries * 4 * head_dim, 4 * head_dim
    group = GROUP * 2 * head_dim * bits // 8 + 4 * head_dim + 4 * GROUP * _channel_groups(head_dim)
    if uneven and room > GROUP // 2 * plain:
        return (room - GROUP // 2 * plain) * GROUP // group + GROUP // 2
    return room // group * GROUP + min(room % group // plain, GROUP - 1)


def _channel_groups(width: int) -> int:
    return width // GROUP if width % GROUP == 0 else 1


@dataclass
class Packed:
    """Codes of one side, keys or values, with their scales.

    Attributes:
        codes: uint8 `[group, entry, width * bits / 8]`; channels `n i` to `n i + n - 1` share byte
            i, the first in its lowest bits, where n is `8 / bits`.
        scale: float16, `[group, 1, channel]` of keys, `[group, entry, channels / 64]` of values.
        zero: float16, likewise.
        bits: of a code.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int

    @classmethod
    def of(cls, numbers: Tensor, bits: int, by_channel: bool) -> "Packed":
        """Rounds numbers, `[group, entry, channel]`, to codes.

        Args:
            numbers: float.
            bits: of a code.
            by_channel: whether the entries of a group share the scale of each channel.

        Raises:
            UserError: the width does not fill whole bytes.
        """
        groups, entries, width = numbers.shape
        share = 8 // bits
        if width % share:
            raise UserError(
                f"bits={bits} for heads {width} wide: codes do not fill whole bytes",
                allowed=f"widths that {share} divides",
                do="set bits=8",
            )
        cut = numbers.float()
        if not by_channel:
            blocks = _channel_groups(width)
            cut = cut.reshape(groups, entries, blocks, width // blocks)
        dim = 1 if by_channel else -1
        low, high = cut.amin(dim, keepdim=True), cut.amax(dim, keepdim=True)
        most = torch.finfo(torch.float16).max
        zero = low.clamp(-most, most).half()
        scale = ((high - low) / (2**bits - 1)).clamp(max=most).half()
        safe = torch.where(scale == 0, 1, scale.float())
        codes = ((cut - zero.float()) / safe).round_().clamp_(0, 2**bits - 1).to(torch.uint8)
        codes = codes.reshape(groups, entries, width // share, share)
        packed = codes[..., 0].clone()
        for place in range(1, share):
            packed += codes[..., place] << (bits * place)
        if not by_channel:
            scale, zero = scale[..., 0], zero[..., 0]
        return cls(packed, scale, zero, bits)

    @property
    def share(self) -> int:
        """Codes of a byte."""
        return 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes + self.zero.nbytes

    def numbers(self) -> Tensor:
        """What the codes stand for, float32 `[group, entry, channel]`."""
        planes = [(self.codes >> (self.bits * k)) & (2**self.bits - 1) for k in range(self.share)]
        codes = torch.stack(planes, -1).flatten(2).float()
        groups, entries, width = codes.shape
        blocks = self.scale.shape[2]
        codes = codes.view(groups, entries, blocks, width // blocks)
        scale, zero = self.scale.float()[..., None], self.zero.float()[..., None]
        return (codes * scale + zero).reshape(groups, entries, width)

    def pick(self, groups: Tensor) -> "Packed":
        """Some of the groups, by index."""
        return Packed(self.codes[groups], self.scale[groups], self.zero[groups], self.bits)

    def shifted(self, part: slice) -> list[Tensor]:
        """Of some groups the bytes without their lowest 0, 1, ... codes, as float32."""
        codes = self.codes[part]
        return [(codes >> (self.bits * k) if k else codes).float() for k in range(self.share)]

    @staticmethod
    def cat(parts: Sequence["Packed"]) -> "Packed":
        """The groups of several, of the same bits, one after another."""
        return Packed(
            torch.cat([each.codes for each in parts]),
            torch.cat([each.scale for each in parts]),
            torch.cat([each.zero for each in parts]),
            parts[0].bits,
        )
