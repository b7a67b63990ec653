import os
import sys
from pathlib import Path

# Jobs run this interpreter and this source tree, also where the environment is not activated.
SOURCE = str(Path(workflow.basedir, "src"))
sys.path.insert(0, SOURCE)
# A logger plugin may have imported the package of another checkout already, from the environment's site-packages.
for name, module in [*sys.modules.items()]:
    if name.partition(".")[0] == "empg" and not str(module.__file__).startswith(SOURCE + os.sep):
        del sys.modules[name]
for variable, first in {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": SOURCE}.items():
    os.environ |= {variable: os.pathsep.join([first, *filter(None, [os.environ.get(variable)])])}

from empg.config import load_data
from empg.errors import ConfigError, EmpgError, StorageError, UserError
from empg.pipeline.job_files import prepare
from empg.pipeline.needs import Need, Needs, check


def read_study():
    """The study that was asked for; a mistake in its configuration, or a disk that refuses, ends all with one message."""
    try:
        if not os.access(".", os.W_OK):
            found = "a read-only file system, or no permission"
            raise StorageError(f"{Path.cwd()}: expected a folder to write in, found {found}")
        if unknown := ", ".join(set(config) - {"study", "software"}):
            raise ConfigError(f"--config: expected study=NAME, found {unknown}")
        if not Path(SOFTWARE).is_file():
            raise ConfigError(f"--config: software: expected a conda environment file, found none at {SOFTWARE}")
        return prepare(Path("config"), config.get("study"), Path("results"))
    except EmpgError as error:
        print(f"empg: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


# The jobs' software for `--software-deployment-method conda`. A profile chooses another file, as profiles/gpu does.
SOFTWARE = str(Path(workflow.basedir, config.get("software", "envs/cpu.yaml")))
study = read_study()
needs = Needs(study, load_data(Path("config", "data.yaml")))
DATA_SETS = [*dict.fromkeys(map(study.data_set, study.environments))]
STUDY = f"results/{study.study}"
RUN = f"{STUDY}/{{environment}}/{{method}}/seed{{seed}}"
CONFIG = f"{STUDY}/config/{{environment}}"
WARMSTART = f"{STUDY}/{{environment}}/warmstart"
ROLLOUTS = f"{STUDY}/{{environment}}/rollouts"


def of_data_set(pattern):
    """Input function: fills in the name of the environment's data set, which several environments may share."""
    return lambda wildcards: pattern.format(data_set=study.data_set(wildcards.environment))


def megabytes(rule):
    """Resource function: the memory that the rule's job needs."""
    return lambda wildcards: needs.megabytes(rule, wildcards.environment, unknown=4000)


def check_memory():
    """Say what the jobs of this run need, and end it before the first one if they cannot fit into this machine."""
    limit = getattr(workflow.global_resources.get("mem_mb"), "value", None)
    found = []
    for job in workflow.dag.needrun_jobs():
        environment = getattr(job.wildcards, "environment", None)
        name = f"{job.rule.name} ({environment})" if environment else job.rule.name
        if job.rule.name != "all":
            size = None if job.resources.gpu else needs.of(job.rule.name, environment)
            found.append(Need(name, job.threads, size))
    try:
        logger.info(check(found, workflow.cores, limit and limit * 10**6))
    except UserError as error:
        print(f"empg: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


wildcard_constraints:
    data_set="|".join(DATA_SETS),
    environment="|".join(study.environments),
    method="|".join(study.methods),
    seed="|".join(map(str, study.seeds)),


def warm_start_threads(wildcards):
    """Enough for the processes of `engine: trl`, and for the threads of the native one."""
    environment = study.environments[wildcards.environment]
    return max(environment.warmstart.threads, environment.processes)
