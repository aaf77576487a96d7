"""Images: simulated or read from files, and what the network sees of them."""

if T.simulated:

    rule simulate:
        input:
            population=T.population,
            settings=f"{OUT}/config/simulate.yaml",
        output:
            multiext(
                f"{OUT}/shards/{{k}}-of-{CONFIG.shards}/",
                "images.npy",
                "catalog.csv",
                "dataset.json",
            ),
        log:
            f"{OUT}/logs/simulate_{{k}}.log",
        conda:
            "../environment.yml"
        params:
            out=subpath(output[0], parent=True),
            shard=lambda wildcards: f"{wildcards.k}/{CONFIG.shards}",
            code=CODE("vitdm.commands.simulate"),
        shell:
            "vitdm simulate --population {input.population:q} --config {input.settings:q}"
            " --shard {params.shard:q} --out {params.out:q} 2>&1 | tee {log:q}"

    rule merge:
        input:
            expand("{shard}/images.npy", shard=T.shards),
        output:
            T.dataset,
        log:
            f"{OUT}/logs/merge.log",
        conda:
            "../environment.yml"
        params:
            shards=T.shards,
            out=subpath(output[0], parent=True),
            code=CODE("studies.commands.merge_shards"),
        shell:
            "python -m studies merge-shards {params.shards:q} --out {params.out:q}"
            " 2>&1 | tee {log:q}"

    rule simulate_sample:  # beside the lenses of the article's model
        input:
            population=lambda wildcards: T.samples[wildcards.sample].population,
            settings=lambda wildcards: T.sample_settings(wildcards.sample),
        output:
            multiext(f"{OUT}/{{sample}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
        log:
            f"{OUT}/logs/simulate_{{sample}}.log",
        conda:
            "../environment.yml"
        params:
            out=subpath(output[0], parent=True),
            code=CODE("vitdm.commands.simulate"),
        shell:
            "vitdm simulate --population {input.population:q} --config {input.settings:q}"
            " --out {params.out:q} 2>&1 | tee {log:q}"

else:

    rule ingest:
        input:
            images=CONFIG.data,
            labels=CONFIG.ingest.labels or [],
            settings=f"{OUT}/config/ingest.yaml",
        output:
            T.dataset,
        log:
            f"{OUT}/logs/ingest.log",
        conda:
            "../environment.yml"
        params:
            out=subpath(output[0], parent=True),
            files=schema.fingerprint(CONFIG.data),
            code=CODE("vitdm.commands.ingest"),
        shell:
            "vitdm ingest {input.images:q} --config {input.settings:q} --out {params.out:q}"
            " 2>&1 | tee {log:q}"


rule preprocess:
    input:
        multiext("{folder}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
        settings=f"{OUT}/config/preprocess.yaml",
    output:
        multiext("{folder}/processed/", "images.npy", "catalog.csv", "dataset.json"),
    log:
        "{folder}/logs/preprocess.log",
    conda:
        "../environment.yml"
    params:
        dataset=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        code=CODE("vitdm.commands.preprocess"),
    shell:
        "vitdm preprocess {params.dataset:q} --config {input.settings:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"
