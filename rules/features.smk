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
        fits=lambda wildcards: f"--fits {wildcards.folder}/lensfit" if T.fitted else "",
        code=CODE("vitdm.commands.features"),
    shell:
        "vitdm features {params.dataset} {params.fits} --config {input.settings} --out {output}"
        " 2>&1 | tee {log}"


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
        "vitdm select {params.processed} --features {input.features} --config {input.settings}"
        " --out {params.out} 2>&1 | tee {log}"


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
        "vitdm select {params.dataset} --features {input.features} --config {input.settings}"
        " --ranking-only --out {params.out} 2>&1 | tee {log}"
