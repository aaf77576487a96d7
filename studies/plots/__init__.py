"""One function per figure, in a module for each group of figures that belong together.

A function draws what it is given and returns the figure. The first sentence of its docstring,
"Draw …", is the caption of the figure in its sidecar and in the report of the workflow
(``studies.contents``).
"""
