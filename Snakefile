# One study, end to end: data → warm start → rollouts → training → evaluation → report.
#
#   snakemake --cores all                       the default study, config/config.yaml
#   snakemake --cores all --config study=NAME   config/study/NAME.yaml
#
# Each rule is one command `empg STAGE …`. A job's settings and its stage's source are input files, rewritten only when
# their content changes; large files are `ancient` beside the small manifest that identifies them.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/warmstart.smk"
include: "workflow/rules/rollouts.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/track.smk"


rule all:
    default_target: True
    input:
        f"{STUDY}/report/report.html",
        f"{STUDY}/mlflow.done",
        "results/mlflow.db",
    localrule: True
