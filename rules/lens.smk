"""Smooth lenses fitted to the images."""

if T.fitted:

    rule lensfit:
        input:
            T.dataset,
            population=T.population,
            settings=f"{OUT}/config/fit.yaml",
        output:
            multiext(
                f"{OUT}/shards/fits-{{k}}-of-{CONFIG.shards}/",
                "fits.csv",
                "residuals.npy",
                "provenance.json",
            ),
        log:
            f"{OUT}/logs/lensfit_{{k}}.log",
        conda:
            "../environment.yml"
        params:
            dataset=subpath(input[0], parent=True),
            population=[f"--population {file}" for file in T.population],
            out=subpath(output[0], parent=True),
            shard=lambda wildcards: f"{wildcards.k}/{CONFIG.shards}",
            code=CODE("vitdm.commands.fit"),
        shell:
            "vitdm fit {params.dataset} {params.population} --config {input.settings}"
            " --shard {params.shard} --out {params.out} 2>&1 | tee {log}"

    rule merge_fits:
        input:
            expand("{shard}/fits.csv", shard=T.fit_shards),
        output:
            T.fits,
        log:
            f"{OUT}/logs/merge_fits.log",
        conda:
            "../environment.yml"
        params:
            shards=T.fit_shards,
            out=subpath(output[0], parent=True),
            code=CODE("studies.commands.merge_fits"),
        shell:
            "python -m studies merge-fits {params.shards} --out {params.out} 2>&1 | tee {log}"

    rule lensfit_sample:
        input:
            multiext(f"{OUT}/{{sample}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
            population=lambda wildcards: T.samples[wildcards.sample].population,
            settings=f"{OUT}/config/fit.yaml",
        output:
            multiext(f"{OUT}/{{sample}}/lensfit/", "fits.csv", "residuals.npy", "provenance.json"),
        log:
            f"{OUT}/logs/lensfit_{{sample}}.log",
        conda:
            "../environment.yml"
        params:
            dataset=subpath(input[0], parent=True),
            out=subpath(output[0], parent=True),
            code=CODE("vitdm.commands.fit"),
        shell:
            "vitdm fit {params.dataset} --population {input.population} --config {input.settings}"
            " --out {params.out} 2>&1 | tee {log}"
