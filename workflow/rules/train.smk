rule train:
    # A job that was cut off resumes from its checkpoint and credited rollouts. They are not declared as outputs, because
    # Snakemake deletes outputs when a job fails or starts again. The manifest lists every file.
    input:
        config=f"{CONFIG}/{{method}}/seed{{seed}}/train.json",
        sources=of_data_set("results/sources/{data_set}/train.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        warmstart=f"{WARMSTART}/manifest.json",
        model=ancient(f"{WARMSTART}/model"),
        rollouts=f"{ROLLOUTS}/manifest.json",
        collection=ancient(f"{ROLLOUTS}/rollouts.parquet"),
        difficulty=ancient(f"{ROLLOUTS}/difficulty.parquet"),
        accelerate=lambda wildcards: study.environments[wildcards.environment].accelerate or [],
    output:
        manifest=f"{RUN}/train/manifest.json",
        metrics=f"{RUN}/train/metrics.parquet",
        model=directory(f"{RUN}/train/model"),
    log:
        f"{STUDY}/logs/{{environment}}/{{method}}/seed{{seed}}/train.log",
    priority: 30
    conda:
        SOFTWARE
    threads: lambda wildcards: study.environments[wildcards.environment].processes
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=600,
    params:
        data=subpath(input.data, parent=True),
        rollouts=subpath(input.rollouts, parent=True),
        out=subpath(output.manifest, parent=True),
        study=subpath(input.config, ancestor=5),
    message:
        "Train {wildcards.method}, seed {wildcards.seed} ({wildcards.environment})"
    shell:
        "python -m empg train --log {log} --config {input.config} --data {params.data} --model {input.model}"
        " --rollouts {params.rollouts} --out {params.out} --track {params.study}"
