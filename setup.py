"""The one thing that pyproject.toml cannot say: conf/ and data/ go into the wheel as they are."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithFolders(build_py):
    """Copies both folders into the package; an editable install reads them where they lie."""

    def run(self) -> None:
        """Builds as ever, then copies."""
        super().run()
        if not self.editable_mode:
            for name in ("conf", "data"):
                target = Path(self.build_lib, "headkv", name)
                shutil.rmtree(target, ignore_errors=True)  # of an earlier build
                shutil.copytree(name, target)


setup(cmdclass={"build_py": BuildWithFolders})
