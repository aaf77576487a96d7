"""What the report of the workflow (`snakemake --report`) shows of a figure or a table."""


def shown(file, entry, notebook):
    """Return a figure or table, marked for the report."""
    kind = "figure" if entry.drawn_by else "table"
    return report(
        file,
        caption="../paper/report/notebook.rst",
        category=f"{int(notebook.number)}. {notebook.title}",
        subcategory=f"{kind}s",
        labels=lambda wildcards: {kind: Path(file).stem, "what it shows": entry.shows(file)},
    )
