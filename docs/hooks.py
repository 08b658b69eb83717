"""What mkdocs does besides: files of the repository that pages link to become part of the site, formulas become MathML.

Links of the pages are right in the repository, where `../../benchmarks/records/op.json` is a file. In the site such a
file lies under `repository/`. Formulas are written as GitHub shows them, between dollar signs.
"""

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# What the tests want to know of a block of code; mkdocs takes a fence with such words for no fence at all.
MARK = re.compile(r'^(```\w+) (?:no-run|needs)="[^"\n]*"$', re.M)
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def on_page_markdown(markdown, page, config, files):
    """Links that lead out of docs/ lead to copies of those files; fences lose the tests' marks."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def copied(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        outside = not target.startswith("docs/") or target.startswith("docs/examples/")
        if not outside or not (ROOT / target).is_file():
            return found[0]
        uri = f"repository/{target}"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
        return found[1] + posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".") + found[3]

    return LINK.sub(copied, MARK.sub(r"\1", markdown))


def on_page_content(content, **_):
    """Formulas, as browsers show them without a script."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return DISPLAY.sub(lambda found: convert(html.unescape(found[1]), display="block"), content)
