"""What an entries transform is, and the default one."""

from dataclasses import dataclass

from headkv.kernels.ragged import Ragged
from headkv.methods.evidence import Evidence
from headkv.methods.kept import Kept
from headkv.methods.part import Part


@dataclass(frozen=True, eq=False)
class Entries(Part):
    """Takes the kept entries out of a layer's full cache as they are; the others are dropped.

    A transform that merges or rewrites overrides `gather`; one that has a say in which entries
    stay, once their numbers are decided, overrides `choose`.
    """

    name = "gather"

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
