"""`python notebooks/run.py [output_dir]`: executes the notebooks, offline, on the rows in a folder.

The executed copies go to `<output_dir>/notebooks/`; the notebooks themselves are never written to.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from headkv.config import ROOT
from headkv.report import load_results, results_folder
from headkv.storage.atomic import write_bytes

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 300  # seconds a cell may take


def notebooks() -> list[Path]:
    """All notebooks, in reading order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, results: Path, copy: Path) -> nbformat.NotebookNode:
    """Executes a notebook with this interpreter; kernels and settings of the user have no part.

    Args:
        path: the notebook.
        results: the results folder that it reads.
        copy: where the executed notebook goes, also if a cell fails.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as own:
        manager = AsyncKernelManager(
            kernel_name="python3",
            # No folder of kernels to look into: what is left is ipykernel's own, sys.executable.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc",  # sockets in the temporary folder: no ports
            ip=f"{own}/kernel",
        )
        client = NotebookClient(
            notebook, km=manager, timeout=TIMEOUT, resources={"metadata": {"path": str(FOLDER)}}
        )
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        given = {"HEADKV_RESULTS": str(results.resolve()), "IPYTHONDIR": own}
        given["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's: it can do without widgets
        try:
            client.execute(cleanup_kc=True, env=os.environ | offline | given)
        finally:
            write_bytes(copy, nbformat.writes(notebook).encode())
    return notebook


def main(arguments: Sequence[str] | None = None) -> int:
    """Executes all notebooks.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code: 0; 1 if a cell failed.

    Raises:
        UserError: the folder has no usable results.
    """
    parser = argparse.ArgumentParser(description="Executes the notebooks on a results folder.")
    parser.add_argument("output_dir", nargs="?", help="default: results, or its sample")
    output_dir = results_folder(parser.parse_args(arguments).output_dir, ROOT / "results")
    load_results(output_dir)
    failed = False
    for path in notebooks():
        began, copy = time.perf_counter(), output_dir / "notebooks" / path.name
        try:
            execute(path, output_dir, copy)
        except CellExecutionError as error:
            print(f"error: {path.name}: {error}", file=sys.stderr)
            failed = True
        print(f"wrote {copy} ({time.perf_counter() - began:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    from headkv.cli import front_door

    sys.exit(front_door(main, sys.argv[1:]))
