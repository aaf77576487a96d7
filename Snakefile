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
from studies.code import Watched
from studies.config.part import text_of
from studies.contents import NOTEBOOKS, figures, tables
from studies.stages import stages
from studies.targets import ARTICLE, COMPARISON, RUN, SCORES, SKY, Targets
from vitdm.config import save
from vitdm.config.reading import read_yaml
from vitdm.errors import InputError

if not workflow.configfiles:

    configfile: "config/paper.yaml"


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
    stage="[A-Za-z0-9_]+",
    sample="|".join(T.samples) or "none",
    run="|".join(CONFIG.runs) or "none",
    arm="|".join(CONFIG.study.arms) or "none",
    recipe="|".join(CONFIG.rates.recipes) or "none",
    real="|".join(T.sky) or "none",
    study="|".join(T.studies) or "none",
    which="seed|start",
    row="|".join(T.rows) or "none",
    k="[0-9]+",


localrules:
    all,
    settings,


onstart:
    save(CONFIG, f"{OUT}/config.yaml")  # a record, and what notebooks opened by hand belong to
    CODE.save()


rule all:
    input:
        multiext(f"{T.paper}/paper", ".pdf", ".html", ".tex"),
        expand(f"{OUT}/notebooks/{{notebook.name}}.ipynb", notebook=NOTEBOOKS),


rule settings:  # what the commands of a stage can read of the configuration
    output:
        f"{OUT}/config/{{stage}}.yaml",
    log:
        f"{OUT}/logs/settings_{{stage}}.log",
    conda:
        "environment.yml"
    params:
        text=lambda wildcards: text_of(STAGES[wildcards.stage]),
    shell:
        "printf %s {params.text:q} > {output} 2> {log}"


include: "rules/images.smk"
include: "rules/lens.smk"
include: "rules/features.smk"
include: "rules/training.smk"
include: "rules/tuning.smk"
include: "rules/test.smk"
include: "rules/studies.smk"
include: "rules/report.smk"
include: "rules/article.smk"
