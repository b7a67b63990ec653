rule rollouts:
    input:
        config=f"{CONFIG}/rollouts.json",
        sources=of_data_set("results/sources/{data_set}/rollouts.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        warmstart=f"{WARMSTART}/manifest.json",
        model=ancient(f"{WARMSTART}/model"),
        accelerate=lambda wildcards: study.environments[wildcards.environment].accelerate or [],
    output:
        manifest=f"{ROLLOUTS}/manifest.json",
        rollouts=f"{ROLLOUTS}/rollouts.parquet",
        difficulty=f"{ROLLOUTS}/difficulty.parquet",
    log:
        f"{STUDY}/logs/{{environment}}/rollouts.log",
    priority: 40
    conda:
        SOFTWARE
    threads: lambda wildcards: study.environments[wildcards.environment].processes
    resources:
        gpu=0,
        mem_mb=megabytes("rollouts"),
        runtime=60,
    params:
        data=subpath(input.data, parent=True),
        out=subpath(output.manifest, parent=True),
    message:
        "Sample rollouts ({wildcards.environment})"
    shell:
        "python -m empg rollouts --log {log} --config {input.config} --data {params.data} --model {input.model}"
        " --out {params.out}"
