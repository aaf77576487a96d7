"""What the article measures beside its model: each study, and the tables that join its parts."""


rule ideal_observer:
    input:
        population=lambda wildcards: T.populations[wildcards.name],
        settings=f"{OUT}/config/ideal_observer.yaml",
    output:
        multiext(
            f"{OUT}/populations/{{name}}/ideal_observer/",
            "ideal_observer.csv",
            "ideal_observer.json",
        ),
    log:
        f"{OUT}/logs/ideal_observer_{{name}}.log",
    conda:
        "../environment.yml"
    params:
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.ideal_observer"),
    shell:
        "python -m studies ideal-observer {input.population:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule invariance:
    input:
        multiext("{folder}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
        settings=f"{OUT}/config/invariance.yaml",
    output:
        multiext("{folder}/invariance/", "invariance.csv", "invariance.json", "provenance.json"),
    log:
        "{folder}/logs/invariance.log",
    conda:
        "../environment.yml"
    params:
        dataset=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.invariance"),
    shell:
        "python -m studies invariance {params.dataset:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule efficiency:
    input:
        lambda wildcards: T.seen_by_curve(wildcards.name),
        settings=f"{OUT}/config/efficiency_{{name}}.yaml",
    output:
        multiext(
            f"{OUT}/efficiency/{{name}}/n{{n}}_seed{{k}}/",
            "efficiency.csv",
            "sensitivity.csv",
            "efficiency.json",
        ),
    log:
        f"{OUT}/logs/efficiency_{{name}}_{{n}}_{{k}}.log",
    conda:
        "../environment.yml"
    params:
        samples=lambda wildcards: T.scored(wildcards.name),
        out=subpath(output[0], parent=True),
        runs=lambda wildcards: ["--runs", *runs] if (runs := T.curves[wildcards.name].runs) else [],
        code=CODE("studies.commands.efficiency"),
    shell:
        "python -m studies efficiency {params.samples:q} {params.runs:q} --n {wildcards.n:q}"
        " --seed {wildcards.k:q} --config {input.settings:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"


rule merge_efficiency:
    input:
        expand("{training}/efficiency.csv", training=T.trainings),
    output:
        expand(f"{OUT}/efficiency/all/{{file}}", file=SCORES),
    log:
        f"{OUT}/logs/merge_efficiency.log",
    conda:
        "../environment.yml"
    params:
        trainings=T.trainings,
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_efficiency"),
    shell:
        "python -m studies merge-efficiency {params.trainings:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"


rule compare:
    input:
        T.seen_by_rows,
        settings=f"{OUT}/config/compare_{{row}}.yaml",
    output:
        multiext(f"{OUT}/compare/{{row}}/", "trials.csv", "history.csv", "compare.json"),
    log:
        f"{OUT}/logs/compare_{{row}}.log",
    conda:
        "../environment.yml"
    params:
        sample=T.compared,
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.compare"),
    shell:
        "python -m studies compare {params.sample:q} --row {wildcards.row:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_compare:
    input:
        expand(f"{OUT}/compare/{{row}}/trials.csv", row=T.rows),
        settings=f"{OUT}/config/merge_compare.yaml",
    output:
        expand(f"{OUT}/compare/all/{{file}}", file=COMPARISON),
    log:
        f"{OUT}/logs/merge_compare.log",
    conda:
        "../environment.yml"
    params:
        rows=expand(f"{OUT}/compare/{{row}}", row=T.rows),
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_compare"),
    shell:
        "python -m studies merge-compare {params.rows:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule maps:
    input:
        lambda wildcards: T.seen_by_maps(wildcards.mapped, CONFIG.maps.rows[wildcards.map_row]),
        settings=f"{OUT}/config/maps_{{map_row}}.yaml",
    output:
        multiext(
            f"{OUT}/maps/{{mapped}}/rows/{{map_row}}/", "trials.csv", "history.csv", "maps.json"
        ),
    log:
        f"{OUT}/logs/maps_{{mapped}}_{{map_row}}.log",
    conda:
        "../environment.yml"
    params:
        sample=f"{OUT}/maps/{{mapped}}",
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.maps"),
    shell:
        "python -m studies maps {params.sample:q} --row {wildcards.map_row:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_maps:
    input:
        expand("{row}/trials.csv", row=T.map_rows),
        bounds=T.map_bounds,
        settings=f"{OUT}/config/merge_maps.yaml",
    output:
        expand(f"{OUT}/maps/all/{{file}}", file=MAPPED),
    log:
        f"{OUT}/logs/merge_maps.log",
    conda:
        "../environment.yml"
    params:
        rows=T.map_rows,
        bounds=["--bounds", *T.map_bounds] if T.map_bounds else [],
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_maps"),
    shell:
        "python -m studies merge-maps {params.rows:q} {params.bounds:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule posterior:  # of the mass fraction in subhalos, by a network on the same maps
    input:
        lambda wildcards: T.seen_by_maps(
            wildcards.mapped, CONFIG.posterior.rows[wildcards.posterior_row]
        ),
        population=lambda wildcards: T.mapped[wildcards.mapped],
        settings=f"{OUT}/config/posterior_{{posterior_row}}.yaml",
    output:
        expand(
            f"{OUT}/maps/{{mapped}}/posterior/{{posterior_row}}/{{file}}",
            file=POSTERIOR,
            allow_missing=True,
        ),
    log:
        f"{OUT}/logs/posterior_{{mapped}}_{{posterior_row}}.log",
    conda:
        "../environment.yml"
    params:
        sample=f"{OUT}/maps/{{mapped}}",
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.posterior"),
    shell:
        "python -m studies posterior {params.sample:q} --population {input.population:q}"
        " --row {wildcards.posterior_row:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_posterior:
    input:
        expand("{row}/posterior.csv", row=T.posterior_rows),
        settings=f"{OUT}/config/merge_posterior.yaml",
    output:
        expand(f"{OUT}/posterior/{{file}}", file=POSTERIOR),
    log:
        f"{OUT}/logs/merge_posterior.log",
    conda:
        "../environment.yml"
    params:
        rows=T.posterior_rows,
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_posterior"),
    shell:
        "python -m studies merge-posterior {params.rows:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule where:  # the subhalos of these lenses are, by a network on the same maps, or by the search
    input:
        lambda wildcards: T.seen_by_where(wildcards.mapped),
        population=lambda wildcards: T.mapped[wildcards.mapped],
        settings=f"{OUT}/config/where_{{where_row}}.yaml",
    output:
        expand(
            f"{OUT}/maps/{{mapped}}/where/{{where_row}}/{{file}}",
            file=WHERE_ROW,
            allow_missing=True,
        ),
    log:
        f"{OUT}/logs/where_{{mapped}}_{{where_row}}.log",
    conda:
        "../environment.yml"
    params:
        sample=f"{OUT}/maps/{{mapped}}",
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.where"),
    shell:
        "python -m studies where {params.sample:q} --population {input.population:q}"
        " --row {wildcards.where_row:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_where:
    input:
        expand("{row}/subhalos.csv", row=T.where_rows),
        settings=f"{OUT}/config/merge_where.yaml",
    output:
        expand(f"{OUT}/where/{{file}}", file=WHERE),
    log:
        f"{OUT}/logs/merge_where.log",
    conda:
        "../environment.yml"
    params:
        rows=T.where_rows,
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_where"),
    shell:
        "python -m studies merge-where {params.rows:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule audit:
    input:
        T.seen_by_audit,
        settings=f"{OUT}/config/audit.yaml",
    output:
        multiext(f"{OUT}/audit/table/audit", ".csv", ".json"),
    log:
        f"{OUT}/logs/audit.log",
    conda:
        "../environment.yml"
    params:
        sample=f"{OUT}/audit/{T.audited}",
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.audit"),
    shell:
        "python -m studies audit {params.sample:q} --config {input.settings:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"


rule real_sky:
    input:
        lambda wildcards: T.seen_by_real_set(wildcards.real),
        settings=f"{OUT}/config/real_sky_{{real}}.yaml",
    output:
        multiext(f"{OUT}/sky/{{real}}/seed{{k}}/", "images.csv", "real_sky.json"),
    log:
        f"{OUT}/logs/real_sky_{{real}}_{{k}}.log",
    conda:
        "../environment.yml"
    params:
        sample=lambda wildcards: f"{OUT}/{T.sky_samples[wildcards.real]}",
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.real_sky"),
    shell:
        "python -m studies real-sky {params.sample:q} --set {wildcards.real:q}"
        " --seed {wildcards.k:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_real_sky:
    input:
        expand("{part}/images.csv", part=T.sky_parts),
        settings=f"{OUT}/config/merge_real_sky.yaml",
    output:
        expand(f"{OUT}/sky/all/{{file}}", file=SKY),
    log:
        f"{OUT}/logs/merge_real_sky.log",
    conda:
        "../environment.yml"
    params:
        parts=T.sky_parts,
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_real_sky"),
    shell:
        "python -m studies merge-real-sky {params.parts:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule slacs:  # a real lens, if it is there
    input:
        lambda wildcards: T.slacs_images(wildcards.lens),
        T.slacs_redshifts,
        settings=f"{OUT}/config/slacs.yaml",
    output:
        expand(f"{OUT}/slacs/lenses/{{{{lens}}}}/{{file}}", file=SLACS_LENS),
    log:
        f"{OUT}/logs/slacs_{{lens}}.log",
    conda:
        "../environment.yml"
    params:
        folder=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        known=[word for file in T.slacs_redshifts for word in ("--redshifts", file)],
        code=CODE("studies.commands.slacs"),
    shell:
        "python -m studies slacs {params.folder:q} {params.known:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_slacs:
    input:
        expand(f"{OUT}/slacs/lenses/{{lens}}/lens.csv", lens=T.slacs_lenses),
        **T.slacs_known,
        settings=f"{OUT}/config/merge_slacs.yaml",
    output:
        expand(f"{OUT}/slacs/all/{{file}}", file=SLACS),
    log:
        f"{OUT}/logs/merge_slacs.log",
    conda:
        "../environment.yml"
    params:
        lenses=expand(f"{OUT}/slacs/lenses/{{lens}}", lens=T.slacs_lenses),
        known=[word for name, file in T.slacs_known.items() for word in (f"--{name}", file)],
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_slacs"),
    shell:
        "python -m studies merge-slacs {params.lenses:q} {params.known:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule misspecification:  # some lenses of a row, or those that thresholds and trees are made with
    input:
        settings=f"{OUT}/config/misspecification.yaml",
    output:
        multiext(f"{OUT}/misspecification/{{part}}/{{k}}/", "scores.csv", "scores.json"),
    log:
        f"{OUT}/logs/misspecification_{{part}}_{{k}}.log",
    conda:
        "../environment.yml"
    params:
        out=subpath(output[0], ancestor=3),
        code=CODE("studies.commands.misspecification"),
    shell:
        "python -m studies misspecification {wildcards.part:q} --block {wildcards.k:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_misspecification:
    input:
        expand("{block}/scores.csv", block=T.searched_blocks),
        settings=f"{OUT}/config/merge_misspecification.yaml",
    output:
        expand(f"{OUT}/misspecification/all/{{file}}", file=MATRIX),
    log:
        f"{OUT}/logs/merge_misspecification.log",
    conda:
        "../environment.yml"
    params:
        blocks=subpath(output[0], ancestor=2),
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_misspecification"),
    shell:
        "python -m studies merge-misspecification {params.blocks:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule benchmark:  # a model of the table of the DeepLense benchmark
    input:
        settings=f"{OUT}/config/benchmark_{{rival}}.yaml",
    output:
        multiext(f"{OUT}/benchmark/{{set}}/{{rival}}/", "rows.csv", "rival.json"),
    log:
        f"{OUT}/logs/benchmark_{{set}}_{{rival}}.log",
    conda:
        "../environment.yml"
    params:
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.benchmark"),
    shell:
        "python -m studies benchmark {wildcards.set:q} --rival {wildcards.rival:q}"
        " --config {input.settings:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule merge_benchmark:
    input:
        expand("{rival}/rows.csv", rival=T.rivals),
        settings=f"{OUT}/config/merge_benchmark.yaml",
    output:
        expand(f"{OUT}/benchmark/all/{{file}}", file=RIVALS),
    log:
        f"{OUT}/logs/merge_benchmark.log",
    conda:
        "../environment.yml"
    params:
        rivals=subpath(output[0], ancestor=2),
        out=subpath(output[0], parent=True),
        code=CODE("studies.commands.merge_benchmark"),
    shell:
        "python -m studies merge-benchmark {params.rivals:q} --config {input.settings:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


if not CONFIG.publish:  # what is published reads the committed results of config/extended.yaml

    rule extended:
        input:
            T.to_commit,
        output:
            T.committed,
        log:
            f"{OUT}/logs/extended.log",
        conda:
            "../environment.yml"
        shell:
            "cp {input:q} paper/extended/ 2> {log:q}"
