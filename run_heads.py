"""Head scores of a model: which heads retrieve, which retrieve while reasoning, and do they matter.

.venv/bin/python run_heads.py model=smollm2_135m kind=retrieval_reasoning
.venv/bin/python run_heads.py model=smollm2_135m mode=masking
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("heads")
