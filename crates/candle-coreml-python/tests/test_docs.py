"""The Python of docs/python.md and of the README runs, in order, in one namespace for each."""

import re

import pytest

PAGES = ["docs/python.md", "README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(root, page, capsys):
    pytest.importorskip("PIL.Image")
    text = (root / page).read_text(encoding="utf-8")
    # Snippets that need more than this package say so before them.
    snippets = re.findall(r"(<!-- needs (\w+) -->\n)?```python\n(.*?)```", text, re.S)
    assert snippets
    namespace = {}
    for _, needs, code in snippets:
        if needs:
            pytest.importorskip(needs)
        exec(compile(code, page, "exec"), namespace)
    if page == "docs/python.md":
        assert "82" in capsys.readouterr().out
