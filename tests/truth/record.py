"""Records the truth anew: `python tests/truth/record.py`, with one thread.

Only after a deliberate change of what a method keeps; say which and why in docs/parity.md.
"""

import numpy as np
import torch
from cells import FILE, MODEL, load, prefills, work_out

import headkv

if __name__ == "__main__":
    torch.set_num_threads(1)
    recorded = dict(np.load(FILE))
    model, (prompts, tail) = headkv.load_model(MODEL)[0], load(recorded)
    kept = {key: value for key, value in recorded.items() if key.startswith(("prompt", "template"))}
    np.savez_compressed(FILE, **kept, **work_out(model, prefills(model, prompts, tail), tail))
