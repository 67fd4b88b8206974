"""The documentation as a site, in the folder `site`:

python -m sphinx -n -W -b dirhtml docs site
"""

from opsd.runs.environment import VERSION

project = "opsd"
release = VERSION
extensions = ["myst_parser", "sphinx_copybutton", "sphinx_design"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "opsd"
html_show_copyright = False
