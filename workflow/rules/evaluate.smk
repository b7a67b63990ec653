rule evaluate_warmstart:
    input:
        config=f"{CONFIG}/warmstart_evaluate.json",
        sources=of_data_set("results/sources/{data_set}/evaluate.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        policy=f"{WARMSTART}/manifest.json",
        model=ancient(f"{WARMSTART}/model"),
    output:
        manifest=f"{STUDY}/{{environment}}/warmstart_evaluate/manifest.json",
        episodes=f"{STUDY}/{{environment}}/warmstart_evaluate/episodes.parquet",
        steps=f"{STUDY}/{{environment}}/warmstart_evaluate/steps.parquet",
        summary=f"{STUDY}/{{environment}}/warmstart_evaluate/summary.json",
    log:
        f"{STUDY}/logs/{{environment}}/warmstart_evaluate.log",
    priority: 20
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=120,
    params:
        data=subpath(input.data, parent=True),
        out=subpath(output.manifest, parent=True),
    message:
        "Evaluate the warm start ({wildcards.environment})"
    shell:
        "python -m empg evaluate --log {log} --config {input.config} --data {params.data} --model {input.model}"
        " --out {params.out}"


use rule evaluate_warmstart as evaluate with:
    input:
        config=f"{CONFIG}/{{method}}/seed{{seed}}/evaluate.json",
        sources=of_data_set("results/sources/{data_set}/evaluate.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        policy=f"{RUN}/train/manifest.json",
        model=ancient(f"{RUN}/train/model"),
    output:
        manifest=f"{RUN}/evaluate/manifest.json",
        episodes=f"{RUN}/evaluate/episodes.parquet",
        steps=f"{RUN}/evaluate/steps.parquet",
        summary=f"{RUN}/evaluate/summary.json",
    log:
        f"{STUDY}/logs/{{environment}}/{{method}}/seed{{seed}}/evaluate.log",
    message:
        "Evaluate {wildcards.method}, seed {wildcards.seed} ({wildcards.environment})"
