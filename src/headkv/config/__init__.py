"""Settings and yaml files: for Hydra and Python alike, checked before anything is built of them.

A yaml and the constructor that its `_target_` names mirror each other.
"""

from headkv.config.places import CONF, DATA, ROOT, expanded, located
from headkv.config.targets import buildable, instantiate, target_of, without_targets
from headkv.config.yamls import compose, config_loader, load_group, names, not_composed, plain

__all__ = [
    "CONF",
    "DATA",
    "ROOT",
    "buildable",
    "compose",
    "config_loader",
    "expanded",
    "instantiate",
    "load_group",
    "located",
    "names",
    "not_composed",
    "plain",
    "target_of",
    "without_targets",
]
