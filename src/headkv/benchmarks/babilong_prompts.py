"""BABILong's prompts (arXiv 2406.10149), put together from the yaml files in lm-eval's wheel.

lm-eval has mended some misprints; BABILong's runs had them, so they are put back (docs/parity.md).
"""

import re
from collections.abc import Mapping
from functools import cache

from headkv.benchmarks.lm_eval_files import read_yaml

PARTS = ("instruction", "examples", "post_prompt")
"""What a prompt consists of, before the context and the question."""
# Where the answer's form begins in lm-eval's description.
_FORM = re.compile(r"\n(?=Always return|Your answer)")
_ONE_PARAGRAPH = ("facts.\nIf a person", "facts. If a person")
# What BABILong's own prompts have and lm-eval's have not, compared one by one: qa1 to qa10.
_PUBLISHED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "qa1": (("'", "\u2019"), ("after that.", "after that. "), ("</example>\n<", "</example>\n\n<")),
    "qa2": (
        ("I will give", "I give"),
        ("'", "\u2019"),
        (". You need", ".You need"),
        ("facts. If", "facts.\nIf"),
    ),
    "qa3": (
        ("facts. If", "facts.\nIf"),
        ("first location.\0", "first location\0"),
        ("_1$", "_1&"),
        ("bedroom. Mary grabbed", "bedroom.Mary grabbed"),
        ("Answer: Before the bedroom", "Answer: Before the kitchen"),
    ),
    "qa6": (("</example>\0", "</example>\n\0"),),
    "qa7": (("</example>\0", "</example>\n\0"),),
    "qa8": (("</example>\0", "</example>\n\0"),),
    "qa9": (_ONE_PARAGRAPH, ("</example>\0", "</example>\n\0")),
    "qa10": (_ONE_PARAGRAPH, ("</example>\0", "</example>\n<context>\n\0")),
}


@cache
def load_prompt(task: str) -> Mapping[str, str]:
    """Returns instruction, examples and answer's form of one of the 20 tasks.

    Raises:
        UserError: lm-eval's wheel cannot be had.
    """
    content = read_yaml(f"babilong_{task}.yaml")
    instruction, form = _FORM.split(content["description"].strip(), maxsplit=1)
    examples = (
        f"<example>\n{each['input']} {each['question']}\nAnswer: {each['target']}\n</example>"
        for each in content["fewshot_config"]["samples"]
    )
    text = "\0".join((instruction, "\n".join(examples), form.replace("\n", " ")))
    for lost, published in _PUBLISHED.get(task, ()):
        text = text.replace(lost, published)
    return dict(zip(PARTS, text.split("\0"), strict=True))
