"""The article, from images to PDF: `snakemake --cores 4`.

`--configfile config/smoke.yaml` runs everything on tiny data, `--config data=PATH` on your own
images. What there is to be made is in studies/targets.py, the figures and tables of the article are
in studies/contents.py, and rules/ has a file for each stage.

A command reads its settings from the file of its stage, <results>/config/<stage>.yaml, which is an
input of its rule (studies/stages.py); the code that it runs is a parameter (studies/code.py). So a
rule is run again if its inputs change, its settings, or its code. `--config watch_code=false`
leaves the code out, for developing.
"""

from pathlib import Path

from studies import config as schema
from studies import running
from studies.code import Watched
from studies.config.part import text_of
from studies.contents import NOTEBOOKS, figures, tables
from studies.stages import stages
from studies.targets import ARTICLE, COMPARISON, MAPPED, MATRIX, POSTERIOR, RIVALS, RUN, SCORES
from studies.targets import SKY, SLACS, SLACS_LENS, WHERE, WHERE_ROW
from studies.targets import Targets, any_of
from vitdm.config import save
from vitdm.config.reading import read_yaml
from vitdm.errors import InputError

if not workflow.configfiles:

    configfile: "config/paper.yaml"


running.hold()  # before Snakemake locks the folder
WATCH_CODE = str(config.pop("watch_code", True)).lower() == "true"

try:
    for file in workflow.configfiles:
        read_yaml(file)  # refuses what Snakemake lets pass, such as a key that occurs twice
    CONFIG = schema.build(config, ", ".join(map(str, workflow.configfiles)))
    schema.check_data(CONFIG)
except InputError as error:
    raise WorkflowError(str(error)) from None

T = Targets(CONFIG)
OUT = T.out
STAGES = stages(CONFIG, T)
CODE = Watched(f"{OUT}/code.json", WATCH_CODE)


report: "paper/report/workflow.rst"


wildcard_constraints:
    stage=any_of(STAGES),
    sample=any_of(T.samples),
    mapped=any_of(T.mapped),
    map_row=any_of(CONFIG.maps.rows),
    posterior_row=any_of(CONFIG.posterior.rows),
    where_row=any_of(CONFIG.where.rows),
    run=any_of(CONFIG.runs),
    arm=any_of(CONFIG.study.arms),
    recipe=any_of(CONFIG.rates.recipes),
    real=any_of(T.sky),
    lens=any_of(T.slacs_lenses),
    part=any_of(CONFIG.misspecification.parts),
    set=any_of(CONFIG.benchmark.sets),
    rival=any_of(CONFIG.benchmark.rivals),
    study=any_of(T.studies),
    which="seed|start",
    row=any_of(T.rows),
    k="[0-9]+",


localrules:
    all,
    settings,


onstart:
    save(CONFIG, f"{OUT}/config.yaml")  # a record, and what notebooks opened by hand belong to
    CODE.save()


rule all:
    input:
        multiext(T.document, ".pdf", ".html", ".tex"),
        f"{OUT}/notebooks/00_quickstart.ipynb",
        expand(f"{OUT}/notebooks/{{notebook.name}}.ipynb", notebook=NOTEBOOKS),
        f"{OUT}/explorer.html",


rule settings:  # what the commands of a stage can read of the configuration
    output:
        f"{OUT}/config/{{stage}}.yaml",
    log:
        f"{OUT}/logs/settings_{{stage}}.log",
    localrule: True
    conda:
        "environment.yml"
    params:
        text=lambda wildcards: text_of(STAGES[wildcards.stage]),
    shell:
        "printf %s {params.text:q} > {output:q} 2> {log:q}"


include: "rules/images.smk"
include: "rules/lens.smk"
include: "rules/features.smk"
include: "rules/training.smk"
include: "rules/tuning.smk"
include: "rules/test.smk"
include: "rules/studies.smk"
include: "rules/report.smk"
include: "rules/article.smk"
