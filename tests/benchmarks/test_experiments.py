"""Every experiment composes with the scripts it is for, and every launcher preset with Hydra."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from headkv.config import CONF, names
from headkv.evaluation.settings import Settings

SCRIPTS = {
    "choose_beta": ["needle", "longbench"],
    "compresskv_longbench": ["longbench"],
    "demo": ["needle"],
    "paper_babilong": ["babilong"],
    "paper_kv_sizes": ["longbench"],
    "paper_needle": ["needle"],
    "paper_table1": ["longbench"],
    "paper_table1_loogle": ["loogle"],
    "smoke": ["needle", "longbench", "loogle", "babilong"],
}
PAPER = ["fullkv", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2"]


def composed(script: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(script, overrides=list(overrides), return_hydra_config=True)
    del config.hydra.runtime  # only a started job has it
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return {**OmegaConf.to_container(own, resolve=True), "hydra": plain["hydra"]}  # type: ignore


def test_every_experiment_is_tested() -> None:
    assert sorted(SCRIPTS) == names("experiment")


@pytest.mark.parametrize(
    ("experiment", "script"), [(name, script) for name in SCRIPTS for script in SCRIPTS[name]]
)
def test_it_composes_with_its_script(experiment: str, script: str) -> None:
    config = composed(script, f"experiment={experiment}")
    settings = Settings.parse(config)
    assert settings.methods and settings.kv_sizes
    assert set(settings.methods) <= set(names("method"))
    swept = config["hydra"]["sweeper"]["params"] or {}
    for model in swept.get("model", config["model"]["name"]).split(","):
        assert model in names("model")
    if experiment.startswith("paper"):
        assert settings.protocol.name == "paper" and list(settings.methods) == PAPER
        assert "benchmark" in config and 128 in settings.kv_sizes


def test_babilong_asks_through_the_template() -> None:
    assert not composed("babilong", "protocol=paper")["protocol"]["chat_template"]
    assert composed("babilong", "experiment=paper_babilong")["protocol"]["chat_template"]


def test_the_command_line_wins() -> None:
    config = composed("longbench", "experiment=paper_table1", "kv_size=64", "model=smollm2_135m")
    assert config["kv_size"] == 64 and config["model"]["name"] == "smollm2_135m"


def test_table_1_and_the_sizes_of_the_figure_share_cells() -> None:
    table, figure = (
        Settings.parse(composed("longbench", f"experiment={name}"))
        for name in ("paper_table1", "paper_kv_sizes")
    )
    assert set(table.kv_sizes) < set(figure.kv_sizes) and table.methods == figure.methods


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_launchers_can_be_built(name: str) -> None:
    launcher = composed("needle", f"hydra/launcher={name}")["hydra"]["launcher"]
    assert launcher["submitit_folder"] == "${output_dir}/.submitit/%j"
    known = {plugin.__module__ + "." + plugin.__name__ for plugin in Plugins.instance().discover(
        Launcher)}  # fmt: skip
    assert launcher["_target_"] in known
