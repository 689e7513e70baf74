"""What an entries transform is, and the default one."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from headkv.errors import UserError
from headkv.kernels.ragged import Ragged
from headkv.methods.evidence import Evidence
from headkv.methods.kept import Kept
from headkv.methods.part import Part


@dataclass(frozen=True, eq=False)
class Entries(Part):
    """Takes the kept entries out of a layer's full cache as they are; the others are dropped.

    A transform that merges or rewrites overrides `gather`; one that has a say in which entries
    stay, once their numbers are decided, overrides `choose`.

    Attributes:
        gathers: whether entries stay as the model made them, so that they can be cut again.
    """

    name = "gather"
    gathers: ClassVar[bool] = True

    def choose(self, evidence: Evidence, kept: Kept, tail: int) -> Kept:
        """The last word on which entries stay; the counts are the allocator's.

        Args:
            evidence: the layer, with its values.
            kept: the positions that the scorer chose.
            tail: last tokens of the prompt that always stay.
        """
        return kept

    def gather(self, evidence: Evidence, kept: Kept) -> Ragged:
        """The entries of one layer of one prompt.

        Args:
            evidence: the layer, with its values.
            kept: the positions chosen.

        Returns:
            One sequence; entries ordered as `kept.positions`, counts those of `kept`.
        """
        assert evidence.values is not None
        return Ragged.gather(evidence.keys, evidence.values, kept.counts, kept.positions)

    def taken(self, evidence: Evidence, kept: Kept, method: str) -> Ragged:
        """What `gather` gives, checked where a transform overrides it.

        Args:
            evidence: the layer, with its values.
            kept: the positions chosen.
            method: the method's name, for messages.

        Raises:
            UserError: other counts or shapes, or numbers that are not finite.
        """
        found = self.gather(evidence, kept)
        if type(self) is Entries:
            return found
        keys, values = found.keys, found.values
        assert evidence.values is not None
        counts = kept.counts.tolist()
        wanted = (sum(counts), evidence.keys.shape[-1], evidence.values.shape[-1])
        got = (len(keys), keys.shape[-1], values.shape[-1])
        what, allowed = "", ""
        if got != wanted or len(values) != got[0] or found.counts.flatten().tolist() != counts:
            what = f"{len(keys)} keys and {len(values)} values of shape {got[1:]}"
            allowed = f"{wanted[0]} entries of shape {wanted[1:]}, counted as they were kept"
        elif not bool(torch.isfinite(keys).all() and torch.isfinite(values).all()):
            what, allowed = "keys or values that are not finite", "finite numbers"
        if what:
            raise UserError(
                f"{method}'s entries {self.name} gave {what}",
                allowed=allowed,
                do="mend its gather, or load the model in a wider dtype",
            )
        return found
