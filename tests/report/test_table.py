"""One table in three formats."""

from headkv.report.tables.table import Table


def test_markdown_and_latex_are_escaped() -> None:
    table = Table("a_b 50% & <0.1", ["m|n", "x_1"], [["[{a}]", "^~\\"], ["p#", "$1"]], note="1*2")
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "### a_b 50% & &lt;0.1"
    assert markdown[2].split() == ["|", r"m\|n", "|", "x_1", "|"]
    assert markdown[-1] == r"1\*2"
    latex = table.to_latex()
    assert r"\caption{a\_b 50\% \& $<$0.1. 1*2.}" in latex
    assert r"m|n & x\_1 \\" in latex
    assert r"{[}\{a\}{]} & \textasciicircum{}\textasciitilde{}\textbackslash{} \\" in latex
    assert r"p\# & \$1 \\" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1


def test_text_columns_line_up() -> None:
    lines = Table("t", ["Method", "a"], [["x", "100"], ["longer name", "5"]]).to_text().splitlines()
    assert len({len(line) for line in lines[1:]}) == 1


def test_bold_and_wide_tables_are_balanced_latex() -> None:
    header = ["a_b", *"12345678"]
    table = Table(
        "t#1",
        header,
        [["<x&y", *"12345678"]] * 2,
        "50%",
        frozenset({(1, 0)}),
        frozenset({0, 1}),
        "best_one.",
    )
    latex = table.to_latex()
    assert r"\caption{t\#1. Bold: best\_one. 50\%.}" in latex
    assert r"\textbf{$<$x\&y} & 1" in latex
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 2
    assert latex.count(r"\midrule") == 2
    assert table.to_markdown().count("**") == 2
    assert "&lt;x&y*" not in table.to_text()
