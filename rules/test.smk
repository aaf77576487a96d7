"""The final test, and references for it."""


rule evaluate:  # the only rule that reads the test split
    input:
        T.tuned,
        **T.joined_in_test,
        runs=expand("{run}/model.safetensors", run=T.final),
        settings=f"{OUT}/config/evaluate.yaml",
    output:
        multiext(
            f"{OUT}/evaluation/",
            "metrics.json",
            "predictions.csv",
            "roc.csv",
            "failures.csv",
            "neighbours.csv",
            "evaluation.json",
        ),
    log:
        f"{OUT}/logs/evaluate.log",
    conda:
        "../environment.yml"
    params:
        processed=subpath(input[0], parent=True),
        runs=T.final,
        joined=T.options(T.joined_in_test),
        out=subpath(output[0], parent=True),
        code=CODE("vitdm.commands.evaluate"),
    shell:
        "vitdm evaluate {params.processed:q} {params.runs:q} {params.joined:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule explorer:  # a page with every test image
    input:
        f"{OUT}/evaluation/predictions.csv",
        T.dataset,
        T.processed,
        T.fits,
        T.features,
        T.known_model,
    output:
        page=f"{OUT}/explorer.html",
        about=f"{OUT}/explorer.json",
    log:
        f"{OUT}/logs/explorer.log",
    conda:
        "../environment.yml"
    params:
        results=subpath(output.page, parent=True),
        code=CODE("studies.commands.explorer"),
    shell:
        "python -m studies explorer {params.results:q} --out {output.page:q} 2>&1 | tee {log:q}"


if T.known_model:

    rule known_model:  # draws the test images again, after the final test, and reads none of them
        input:
            population=T.population,
            predictions=f"{OUT}/evaluation/predictions.csv",
            settings=f"{OUT}/config/known_lens.yaml",
        output:
            multiext(f"{OUT}/known_model/", "scores.csv", "provenance.json"),
        log:
            f"{OUT}/logs/known_model.log",
        conda:
            "../environment.yml"
        threads: 2  # little else is left to do
        params:
            out=subpath(output[0], parent=True),
            code=CODE("studies.commands.known_lens"),
        shell:
            "python -m studies known-lens {input.population:q} {input.predictions:q}"
            " --config {input.settings:q} --jobs {threads} --out {params.out:q} 2>&1 | tee {log:q}"
