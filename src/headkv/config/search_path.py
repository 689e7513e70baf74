"""Where Hydra's command line looks besides `conf/`: the folders of installed plug-ins."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from headkv.config import plugins


class PluginFolders(SearchPathPlugin):
    """Appends the `conf/` of every plug-in; ours comes first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds the folders to Hydra's search path."""
        for folder in plugins.folders():
            search_path.append("headkv plug-in", str(folder))
