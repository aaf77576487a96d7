"""The comparison runs, and the final models."""


rule train:  # all seeds of a run: to start takes as long as some epochs
    input:
        T.processed,
        unpack(lambda wildcards: T.joined(wildcards.run)),
        settings=f"{OUT}/config/train_{{run}}.yaml",
    output:
        expand(
            f"{OUT}/runs/{{{{run}}}}_seed{{k}}/{{file}}",
            k=range(CONFIG.run_seeds),
            file=RUN,
        ),
    log:
        f"{OUT}/logs/train_{{run}}.log",
    conda:
        "../environment.yml"
    params:
        processed=subpath(input[0], parent=True),
        out=subpath(output[0], ancestor=2),
        seeds=list(range(CONFIG.run_seeds)),
        joined=lambda wildcards: T.options(T.joined(wildcards.run)),
        code=CODE("vitdm.commands.train"),
    shell:
        "vitdm train {params.processed:q} {params.joined:q} --config {input.settings:q}"
        " --seed {params.seeds:q} --out {params.out:q}/{wildcards.run:q}_seed{{seed}}"
        " 2>&1 | tee {log:q}"


rule train_final:  # seed: as the search chose; start: as it began
    input:
        T.tuned,
        **T.joined_by_model,
        best=f"{OUT}/tune/best.json",
        settings=f"{OUT}/config/train_final.yaml",
    output:
        expand(
            f"{OUT}/final/{{{{which}}}}{{k}}/{{file}}",
            k=range(CONFIG.final.seeds),
            file=RUN,
        ),
    log:
        f"{OUT}/logs/final_{{which}}.log",
    conda:
        "../environment.yml"
    params:
        processed=subpath(input[0], parent=True),
        search=subpath(input.best, parent=True),
        out=subpath(output[0], ancestor=2),
        seeds=list(range(CONFIG.final.seeds)),
        joined=T.options(T.joined_by_model),
        start=lambda wildcards: "--start" if wildcards.which == "start" else "",
        code=CODE("vitdm.commands.train"),
    shell:
        "vitdm train {params.processed:q} {params.joined:q} --config {input.settings:q} --final"
        " --tuned {params.search:q} {params.start:q} --seed {params.seeds:q}"
        " --out {params.out:q}/{wildcards.which:q}{{seed}} 2>&1 | tee {log:q}"
