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
            population=["--population", *T.population] if T.population else [],
            out=subpath(output[0], parent=True),
            shard=lambda wildcards: f"{wildcards.k}/{CONFIG.shards}",
            code=CODE("vitdm.commands.fit"),
        shell:
            "vitdm fit {params.dataset:q} {params.population:q} --config {input.settings:q}"
            " --shard {params.shard:q} --out {params.out:q} 2>&1 | tee {log:q}"

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
            "python -m studies merge-fits {params.shards:q} --out {params.out:q} 2>&1 | tee {log:q}"

    rule lensfit_maps:  # of lenses that networks see as maps
        input:
            multiext(f"{OUT}/maps/{{mapped}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
            population=lambda wildcards: T.mapped[wildcards.mapped],
            settings=f"{OUT}/config/fit_maps.yaml",
        output:
            multiext(
                f"{OUT}/maps/{{mapped}}/lensfit/",
                "fits.csv",
                "residuals.npy",
                "provenance.json",
                "maps.npy",
            ),
        log:
            f"{OUT}/logs/lensfit_maps_{{mapped}}.log",
        conda:
            "../environment.yml"
        params:
            dataset=subpath(input[0], parent=True),
            out=subpath(output[0], parent=True),
            code=CODE("vitdm.commands.fit"),
        shell:
            "vitdm fit {params.dataset:q} --population {input.population:q}"
            " --config {input.settings:q}"
            " --out {params.out:q} 2>&1 | tee {log:q}"

    rule resample:  # copies of these lenses, to learn from
        input:
            multiext(f"{OUT}/maps/{{mapped}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
            multiext(f"{OUT}/maps/{{mapped}}/lensfit/", "fits.csv", "provenance.json", "maps.npy"),
            population=lambda wildcards: T.mapped[wildcards.mapped],
        output:
            multiext(f"{OUT}/maps/{{mapped}}/copies/", "maps.npy", "catalog.csv", "resampled.json"),
        log:
            f"{OUT}/logs/resample_{{mapped}}.log",
        conda:
            "../environment.yml"
        params:
            dataset=subpath(input[0], parent=True),
            fits=subpath(input[3], parent=True),
            number=CONFIG.maps.copies,
            seed=CONFIG.seed,
            out=subpath(output[0], parent=True),
            code=CODE("vitdm.commands.resample"),
        shell:
            "vitdm resample {params.dataset:q} --fits {params.fits:q}"
            " --population {input.population:q} --number {params.number:q} --seed {params.seed:q}"
            " --out {params.out:q} 2>&1 | tee {log:q}"

    rule lensfit_sample:
        input:
            multiext(f"{OUT}/{{sample}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
            population=lambda wildcards: T.samples[wildcards.sample].population,
            settings=f"{OUT}/config/fit.yaml",
        output:
            multiext(f"{OUT}/{{sample}}/lensfit/", "fits.csv", "residuals.npy", "provenance.json"),
        log:
            f"{OUT}/logs/lensfit_{{sample}}.log",
        wildcard_constraints:
            sample=any_of(T.plain_samples),
        conda:
            "../environment.yml"
        params:
            dataset=subpath(input[0], parent=True),
            out=subpath(output[0], parent=True),
            code=CODE("vitdm.commands.fit"),
        shell:
            "vitdm fit {params.dataset:q} --population {input.population:q}"
            " --config {input.settings:q}"
            " --out {params.out:q} 2>&1 | tee {log:q}"
