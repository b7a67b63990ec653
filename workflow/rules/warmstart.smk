rule warmstart:
    input:
        config=f"{CONFIG}/warmstart.json",
        sources=of_data_set("results/sources/{data_set}/warmstart.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        accelerate=lambda wildcards: study.environments[wildcards.environment].accelerate or [],
    output:
        manifest=f"{WARMSTART}/manifest.json",
        metrics=f"{WARMSTART}/metrics.parquet",
        model=directory(f"{WARMSTART}/model"),
    log:
        f"{STUDY}/logs/{{environment}}/warmstart.log",
    priority: 50
    conda:
        SOFTWARE
    threads: warm_start_threads
    resources:
        gpu=0,
        mem_mb=megabytes("warmstart"),
        runtime=120,
    params:
        data=subpath(input.data, parent=True),
        out=subpath(output.manifest, parent=True),
        study=subpath(input.config, ancestor=3),
    message:
        "Fine-tune the warm start ({wildcards.environment})"
    shell:
        "python -m empg warmstart --log {log} --config {input.config} --data {params.data} --out {params.out}"
        " --track {params.study}"
