"""The documentation site: `make docs`."""

import json
import re
from importlib.metadata import version as version_of

from myst_parser.parsers.sphinx_ import MystParser

project = 'msinet-timm'
author = 'the authors of msinet-timm'
version = release = version_of('msinet-timm')

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'furo'
html_title = f'msinet-timm {version}'
html_show_copyright = False
exclude_patterns = ['_build']

myst_heading_anchors = 3
suppress_warnings = ['myst.header']  # included files start at a title of their own

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_inherit_docstrings = False  # torch's about Module.forward and its like say nothing about these
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = 'literal'  # docstrings quote code in single backticks
add_module_names = False

# Types in signatures must be documented here, but for those of other packages: their inventories would have to be
# downloaded.
nitpicky = True
nitpick_ignore_regex = [
    (r'py:.*', r'(torch|torchvision|nn|np|numpy|PIL|Image|timm|argparse|collections|contextlib|pathlib)\b.*'),
    (r'py:.*', r'(os|datetime|huggingface_hub|random)\b.*'),
    # inner types
    (
        r'py:class',
        r'.*\.(Entry|CachedImages|CameraNetwork|CropSettings|Erasing|Fold|Found|Candidate|Processes|RunFolder|'
        r'SceneMeasurement|Settings|Stepper|TrainedOn|TrainingData|T|_\w+)',
    ),
    (r'py:class', r'(tuple|dict|list)\[.*'),  # parts of types that are written between quotes
]


class NotebookParser(MystParser):
    """Shows a notebook's text and code; that it runs is tested, so no kernel is needed here."""

    supported = ('notebook',)

    def parse(self, inputstring: str, document) -> None:
        cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in json.loads(inputstring)['cells']]
        text = '\n\n'.join(f'```python\n{source}\n```' if kind == 'code' else source for kind, source in cells)
        super().parse(text, document)


def keep_colons(app, what, name, obj, options, lines: list[str]) -> None:
    """Breaks lines before a colon where napoleon would read `type: text`; types stand in signatures."""
    if what in ('attribute', 'data', 'property'):
        starts = [0]
    else:
        starts = [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() == 'Returns:']
    for i in reversed(starts):
        head, colon, tail = lines[i].partition(':')
        before, _, word = head.rpartition(' ')
        if colon and before.strip():
            indent = ' ' * (len(head) - len(head.lstrip()))
            lines[i : i + 1] = [before, f'{indent}{word}:{tail}']


def fence_to_block(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings show examples between three backticks, as Markdown does."""
    block, result = False, []
    for line in lines:
        if re.fullmatch(r'\s*```\w*', line):
            block = not block
            result += ['', '.. code-block:: python', ''] if block else ['']
        else:
            result.append(f'    {line}' if block else line)
    lines[:] = result


def skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Fields of named tuples stand in the docstrings of their classes."""
    return True if type(obj).__name__ == '_tuplegetter' else None


def setup(app) -> None:
    app.add_source_suffix('.ipynb', 'notebook')
    app.add_source_parser(NotebookParser)
    app.connect('autodoc-skip-member', skip_fields)
    app.connect('autodoc-process-docstring', keep_colons, priority=400)  # before napoleon
    app.connect('autodoc-process-docstring', fence_to_block)
