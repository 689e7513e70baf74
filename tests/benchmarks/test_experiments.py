"""Every experiment composes with the scripts it is for, and every launcher preset with Hydra."""

from typing import Any

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from headkv.config import CONF, compose, names
from headkv.evaluation.settings import Settings

SCRIPTS = {
    "beyond_rag": ["needle", "babilong"],
    "choose_beta": ["needle", "longbench"],
    "choose_settings": ["ruler"],
    "compresskv_longbench": ["longbench"],
    "demo": ["needle"],
    "more_tokens": ["needle", "ruler", "babilong"],
    "paper_babilong": ["babilong"],
    "paper_kv_sizes": ["longbench"],
    "paper_needle": ["needle"],
    "paper_table1": ["longbench"],
    "paper_table1_loogle": ["loogle"],
    "smoke": ["needle", "longbench", "loogle", "babilong"],
}
PAPER = ["fullkv", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2"]


def of_hydra(script: str, *overrides: str) -> dict[str, Any]:
    """What a script's config says to Hydra itself."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(script, overrides=list(overrides), return_hydra_config=True)
    del config.hydra.runtime  # only a started job has it
    return OmegaConf.to_container(config, resolve=False)["hydra"]  # type: ignore


def test_every_experiment_is_tested() -> None:
    assert sorted(SCRIPTS) == names("experiment")


@pytest.mark.parametrize(
    ("experiment", "script"), [(name, script) for name in SCRIPTS for script in SCRIPTS[name]]
)
def test_it_composes_with_its_script(experiment: str, script: str) -> None:
    config = compose(script, [f"experiment={experiment}"])
    settings = Settings.parse(config)
    assert settings.methods and settings.kv_sizes
    assert set(settings.methods) <= set(names("method"))
    swept = of_hydra(script, f"experiment={experiment}")["sweeper"]["params"] or {}
    for model in swept.get("model", config["model"]["name"]).split(","):
        assert model in names("model")
    if experiment.startswith("paper"):
        assert settings.protocol.name == "paper" and list(settings.methods) == PAPER
        assert "benchmark" in config and 128 in settings.kv_sizes


def test_babilong_asks_through_the_template() -> None:
    assert not compose("babilong", ["protocol=paper"])["protocol"]["chat_template"]
    assert compose("babilong", ["experiment=paper_babilong"])["protocol"]["chat_template"]


def test_the_command_line_wins() -> None:
    config = compose("longbench", ["experiment=paper_table1", "kv_size=64", "model=smollm2_135m"])
    assert config["kv_size"] == 64 and config["model"]["name"] == "smollm2_135m"


def test_table_1_and_the_sizes_of_the_figure_share_cells() -> None:
    table, figure = (
        Settings.parse(compose("longbench", [f"experiment={name}"]))
        for name in ("paper_table1", "paper_kv_sizes")
    )
    assert set(table.kv_sizes) < set(figure.kv_sizes) and table.methods == figure.methods


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_launchers_can_be_built(name: str) -> None:
    launcher = of_hydra("needle", f"hydra/launcher={name}")["launcher"]
    assert launcher["submitit_folder"] == "${output_dir}/.submitit/%j"
    known = {
        plugin.__module__ + "." + plugin.__name__
        for plugin in Plugins.instance().discover(Launcher)
    }
    assert launcher["_target_"] in known
