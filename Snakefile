# One study, end to end: data → warm start → rollouts → training → evaluation → report.
#
#   snakemake --cores all                       the default study, config/config.yaml
#   snakemake --cores all --config study=NAME   config/study/NAME.yaml
#
# Each rule runs one command, `empg STAGE …`, and declares its resources: `threads`, GPUs, memory in MB, time in minutes.
# A job's settings and its stage's source code are input files, which are rewritten only when their content changes.
# Large inputs are `ancient`; the small manifest beside them identifies them.
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
include: "workflow/rules/testbed.smk"
include: "workflow/rules/decisiveness.smk"


rule all:
    default_target: True
    input:
        [f"{STUDY}/report/report.html", f"{STUDY}/mlflow.done", "results/mlflow.db"] if study.environments else [],
        f"{TESTBED}/report/README.md" if study.testbed else [],
        f"{DECISIVENESS}/README.md" if study.decisiveness else [],
    localrule: True


onstart:
    if workflow.local_exec:
        check_memory()
        # Its limit of jobs a second starts a timer at each job's end that never stops: after n jobs Snakemake 9 plans anew n
        # times a second. Nothing here needs the limit.
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    for page in (f"{STUDY}/report/report.html", f"{TESTBED}/report/README.md", f"{DECISIVENESS}/README.md"):
        if Path(page).exists():
            logger.info(f"Report: {page}")
