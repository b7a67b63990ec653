rule mlflow_database:
    # No other stage depends on the database; `track` can rebuild it from the results.
    output:
        update("results/mlflow.db"),
    log:
        "results/logs/mlflow_database.log",
    priority: 100
    localrule: True
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    message:
        "Create the MLflow database"
    shell:
        "python -m empg track --log {log} --init --results results"


rule track:
    input:
        database=ancient("results/mlflow.db"),
        config=f"{STUDY}/config/study.json",
        sources="results/sources/track.json",
        report=f"{STUDY}/report/manifest.json",
    output:
        touch(f"{STUDY}/mlflow.done"),
    log:
        f"{STUDY}/logs/track.log",
    localrule: True
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=60,
    params:
        results=subpath(input.config, ancestor=2),
    message:
        "Write the runs to MLflow"
    shell:
        "python -m empg track --log {log} --results {params.results}"
