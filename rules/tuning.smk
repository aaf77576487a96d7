"""The search for hyperparameters, and studies of it."""


rule tune:
    input:
        T.processed,
        **T.joined_by_model,
        dataset=T.dataset,
        settings=f"{OUT}/config/tune.yaml",
    output:
        multiext(f"{OUT}/tune/", "best.json", "trials.csv"),
    log:
        f"{OUT}/logs/tune.log",
    priority: 10  # the longest job: start it first
    conda:
        "../environment.yml"
    threads: CONFIG.tune.parallel
    params:
        processed=subpath(input[0], parent=True),
        dataset=lambda wildcards, input: Path(input.dataset[0]).parent,
        joined=T.options(T.joined_by_model),
        out=subpath(output[0], parent=True),
        code=CODE("vitdm.commands.tune"),
    shell:
        "vitdm tune {params.processed:q} {params.joined:q} --dataset {params.dataset:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


if T.tuned != T.processed:

    rule preprocess_tuned:
        input:
            T.dataset,
            best=f"{OUT}/tune/best.json",
            settings=f"{OUT}/config/tune.yaml",
        output:
            T.tuned,
        log:
            f"{OUT}/logs/preprocess_tuned.log",
        conda:
            "../environment.yml"
        params:
            dataset=subpath(input[0], parent=True),
            search=subpath(input.best, parent=True),
            out=subpath(output[0], parent=True),
            code=CODE("vitdm.commands.preprocess"),
        shell:
            "vitdm preprocess {params.dataset:q} --tuned {params.search:q}"
            " --config {input.settings:q}"
            " --out {params.out:q} 2>&1 | tee {log:q}"


rule search:  # one of those that are compared
    input:
        T.processed,
        **T.joined_by_model,
        settings=f"{OUT}/config/search_{{arm}}_{{k}}.yaml",
    output:
        multiext(f"{OUT}/searches/{{arm}}_{{k}}/", "best.json", "trials.csv"),
    log:
        f"{OUT}/logs/search_{{arm}}_{{k}}.log",
    conda:
        "../environment.yml"
    threads: lambda wildcards: CONFIG.arm(wildcards.arm, 0).tune.parallel
    params:
        processed=subpath(input[0], parent=True),
        joined=T.options(T.joined_by_model),
        out=subpath(output[0], parent=True),
        code=CODE("vitdm.commands.tune"),
    shell:
        "vitdm tune {params.processed:q} {params.joined:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule rates:  # a recipe, trained at each of some learning rates
    input:
        T.processed,
        **T.joined_by_any,
        settings=f"{OUT}/config/rates_{{recipe}}.yaml",
    output:
        f"{OUT}/rates/{{recipe}}/trials.csv",
    log:
        f"{OUT}/logs/rates_{{recipe}}.log",
    conda:
        "../environment.yml"
    params:
        processed=subpath(input[0], parent=True),
        joined=T.options(T.joined_by_any),
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.rates"),
    shell:
        "python -m studies rates {params.processed:q} {params.joined:q}"
        " --recipe {wildcards.recipe:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule join_trials:
    input:
        lambda wildcards: [f"{folder}/trials.csv" for folder in T.studies[wildcards.study]],
        settings=f"{OUT}/config/join_trials.yaml",
    output:
        table=f"{OUT}/{{study}}/{{study}}.csv",
        provenance=f"{OUT}/{{study}}/{{study}}.json",
    log:
        f"{OUT}/logs/join_{{study}}.log",
    conda:
        "../environment.yml"
    params:
        folders=lambda wildcards: T.studies[wildcards.study],
        code=CODE("studies.commands.join_trials"),
    shell:
        "python -m studies join-trials {params.folders:q} --config {input.settings:q}"
        " --out {output.table:q} 2>&1 | tee {log:q}"


if T.gain:

    rule gain:  # of the search, on lenses that neither it nor the final models have seen
        input:
            T.seen(T.fresh, images_only=True),
            **T.joined_when_fresh,
            runs=expand("{run}/model.safetensors", run=T.final),
            against=expand("{run}/model.safetensors", run=T.final_start),
            settings=f"{OUT}/config/evaluate.yaml",
        output:
            T.gain,
        log:
            f"{OUT}/logs/gain.log",
        conda:
            "../environment.yml"
        params:
            processed=subpath(input[0], parent=True),
            runs=T.final,
            against=T.final_start,
            joined=T.options(T.joined_when_fresh),
            code=CODE("studies.commands.tuned_against_start"),
        shell:
            "python -m studies tuned-against-start {params.processed:q} {params.joined:q}"
            " --runs {params.runs:q} --against {params.against:q} --config {input.settings:q}"
            " --out {output:q} 2>&1 | tee {log:q}"
