"""Notebooks, figures and tables, and the article."""


rule notebook_00:
    input:
        "notebooks/00_quickstart.py",
    output:
        f"{OUT}/notebooks/00_quickstart.ipynb",
    log:
        f"{OUT}/logs/notebook_00_quickstart.log",
    retries: 1  # as below
    conda:
        "../environment.yml"
    params:
        chosen=[word for name, value in CONFIG.quickstart for word in ("-p", name, value)],
        code=CODE("notebooks/00_quickstart.py"),
    shell:
        "jupytext --to ipynb --output - {input:q} 2> {log:q}"
        " | papermill - {output:q} --kernel python3 --cwd . {params.chosen:q}"
        " --no-progress-bar >> {log:q} 2>&1"


for notebook in NOTEBOOKS:

    rule:
        name:
            f"notebook_{notebook.number}"
        input:
            notebook.inputs(T),
            notebook=f"notebooks/{notebook.name}.py",
            settings=f"{OUT}/config/notebook_{notebook.number}.yaml",
        output:
            expand(
                f"{T.figures}/{{figure}}.{{ext}}",
                figure=notebook.figures(T),
                ext=["pdf", "json"],
            ),
            expand(f"{T.tables}/{{table}}.json", table=notebook.tables(T)),
            figures=[
                shown(f"{T.figures}/{name}.png", entry, notebook)
                for entry in notebook.entries
                for name in (entry.names(T) if entry.drawn_by else [])
            ],
            tables=[
                shown(f"{T.tables}/{name}.csv", entry, notebook)
                for entry in notebook.entries
                for name in ([] if entry.drawn_by else entry.names(T))
            ],
            executed=f"{OUT}/notebooks/{notebook.name}.ipynb",
            numbers=f"{OUT}/numbers/{notebook.number}.json",
        log:
            f"{OUT}/logs/notebook_{notebook.name}.log",
        retries: 1  # kernels that start together may race for a port (papermill issue 511)
        conda:
            "../environment.yml"
        params:
            results=subpath(output.numbers, ancestor=2),
            figures=lambda wildcards, output: Path(output.figures[0]).parent,
            tables=lambda wildcards, output: Path(output.tables[0]).parent,
            captions=notebook.captions(),
            code=CODE(f"notebooks/{notebook.name}.py"),
        shell:
            "jupytext --to ipynb --output - {input.notebook:q} 2> {log:q}"
            " | papermill - {output.executed:q} --kernel python3 --cwd ."
            " -p results {params.results:q} -p figures {params.figures:q}"
            " -p tables {params.tables:q}"
            " --no-progress-bar >> {log:q} 2>&1"


rule paper:
    input:
        expand("paper/{file}", file=ARTICLE),
        expand("paper/{file}", file=["references.bib", "numbers.json"]),
        expand("paper/{file}", file=["crossref.lua", "article.typ", "article.css"]),
        numbers=expand(f"{OUT}/numbers/{{notebook.number}}.json", notebook=NOTEBOOKS),
        figures=expand(f"{T.figures}/{{figure}}.pdf", figure=figures(T)),
        tables=expand(f"{T.tables}/{{table}}.csv", table=tables(T)),
        settings=f"{OUT}/config/paper.yaml",
    output:
        report(
            f"{T.document}.pdf",
            caption="../paper/report/paper.rst",
            category="article",
            labels={"file": Path(f"{T.document}.pdf").name},
        ),
        multiext(T.document, ".html", ".tex"),
    log:
        f"{OUT}/logs/paper.log",
    conda:
        "../environment.yml"
    params:
        results=lambda wildcards, input: Path(input.numbers[0]).parents[1],
        figures=lambda wildcards, input: Path(input.figures[0]).parent,
        made=figures(T),
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.article"),
    shell:
        "python -m studies article --config {input.settings:q} --results {params.results:q}"
        " --figures {params.figures:q} --made {params.made:q} --tables {params.tables:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
