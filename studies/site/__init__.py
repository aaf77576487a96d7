"""Pages of the documentation site that are made from the code: references, galleries, notebooks.

``docs/hooks.py`` hands them to MkDocs (``make docs``). Each function returns Markdown; nothing here
needs MkDocs.
"""
