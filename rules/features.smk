"""Physics features: measured, judged, chosen for the model."""


rule features:
    input:
        multiext("{folder}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
        fits=(
            multiext("{folder}/lensfit/", "fits.csv", "residuals.npy", "provenance.json")
            if T.fitted
            else []
        ),
        settings=f"{OUT}/config/features.yaml",
    output:
        "{folder}/features.csv",
    log:
        "{folder}/logs/features.log",
    conda:
        "../environment.yml"
    params:
        dataset=subpath(input[0], parent=True),
        fits=lambda wildcards: ["--fits", f"{wildcards.folder}/lensfit"] if T.fitted else [],
        code=CODE("vitdm.commands.features"),
    shell:
        "vitdm features {params.dataset:q} {params.fits:q} --config {input.settings:q}"
        " --out {output:q}"
        " 2>&1 | tee {log:q}"


rule select:
    input:
        T.processed,
        features=T.features,
        settings=f"{OUT}/config/select.yaml",
    output:
        T.selection,
        multiext(
            f"{OUT}/selection/",
            "ranking.csv",
            "correlation.csv",
            "importance.csv",
            "scores.csv",
            "predictions.csv",
            "select.json",
        ),
    log:
        f"{OUT}/logs/select.log",
    conda:
        "../environment.yml"
    params:
        processed=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        code=CODE("vitdm.commands.select"),
    shell:
        "vitdm select {params.processed:q} --features {input.features:q}"
        " --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule rank_population:  # all of it is in split train: features one by one, no choice
    input:
        multiext(
            f"{OUT}/populations/{{name}}/dataset/", "images.npy", "catalog.csv", "dataset.json"
        ),
        features=f"{OUT}/populations/{{name}}/features.csv",
        settings=f"{OUT}/config/select.yaml",
    output:
        multiext(f"{OUT}/populations/{{name}}/selection/", "ranking.csv", "select.json"),
    log:
        f"{OUT}/logs/rank_{{name}}.log",
    conda:
        "../environment.yml"
    params:
        dataset=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        code=CODE("vitdm.commands.select"),
    shell:
        "vitdm select {params.dataset:q} --features {input.features:q} --config {input.settings:q}"
        " --ranking-only --out {params.out:q} 2>&1 | tee {log:q}"
