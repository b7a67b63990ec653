# Only where a study has the section `decisiveness`.
DECISIVENESS = f"{STUDY}/decisiveness/report"


rule decisiveness_warmstart:
    input:
        config=f"{CONFIG}/warmstart_decisiveness.json",
        sources=of_data_set("results/sources/{data_set}/decisiveness.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        policy=f"{WARMSTART}/manifest.json",
        model=ancient(f"{WARMSTART}/model"),
    output:
        manifest=f"{STUDY}/{{environment}}/warmstart_decisiveness/manifest.json",
        states=f"{STUDY}/{{environment}}/warmstart_decisiveness/states.parquet",
        summary=f"{STUDY}/{{environment}}/warmstart_decisiveness/summary.json",
    log:
        f"{STUDY}/logs/{{environment}}/warmstart_decisiveness.log",
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=megabytes("decisiveness"),
        runtime=120,
    params:
        data=subpath(input.data, parent=True),
        model=lambda wildcards, input: input.model,
        out=subpath(output.manifest, parent=True),
    message:
        "Measure decisiveness of the warm start ({wildcards.environment})"
    shell:
        "python -m empg decisiveness --log {log} --config {input.config} --data {params.data} --model {params.model}"
        " --out {params.out}"


use rule decisiveness_warmstart as decisiveness with:
    input:
        config=f"{CONFIG}/{{method}}/seed{{seed}}/decisiveness.json",
        sources=of_data_set("results/sources/{data_set}/decisiveness.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        policy=f"{RUN}/train/manifest.json",
        model=ancient(f"{RUN}/train/model"),
    output:
        manifest=f"{RUN}/decisiveness/manifest.json",
        states=f"{RUN}/decisiveness/states.parquet",
        summary=f"{RUN}/decisiveness/summary.json",
    log:
        f"{STUDY}/logs/{{environment}}/{{method}}/seed{{seed}}/decisiveness.log",
    params:
        data=subpath(input.data, parent=True),
        model=lambda wildcards, input: input.model,
        out=subpath(output.manifest, parent=True),
    message:
        "Measure decisiveness after {wildcards.method}, seed {wildcards.seed} ({wildcards.environment})"


use rule decisiveness as decisiveness_halfway with:
    input:
        config=f"{CONFIG}/{{method}}/seed{{seed}}/decisiveness_halfway.json",
        sources=of_data_set("results/sources/{data_set}/decisiveness.json"),
        identity=of_data_set("results/data/{data_set}.json"),
        data=ancient(of_data_set("data/{data_set}/manifest.json")),
        policy=f"{RUN}/train/manifest.json",
    output:
        manifest=f"{RUN}/decisiveness_halfway/manifest.json",
        states=f"{RUN}/decisiveness_halfway/states.parquet",
        summary=f"{RUN}/decisiveness_halfway/summary.json",
    log:
        f"{STUDY}/logs/{{environment}}/{{method}}/seed{{seed}}/decisiveness_halfway.log",
    params:
        data=subpath(input.data, parent=True),
        model=f"{RUN}/train/halfway",
        out=subpath(output.manifest, parent=True),
    message:
        "Measure decisiveness half-way of {wildcards.method}, seed {wildcards.seed} ({wildcards.environment})"


rule decisiveness_report:
    input:
        config=f"{STUDY}/config/study.json",
        sources="results/sources/decisiveness_report.json",
        warmstarts=expand(
            f"{STUDY}/{{environment}}/warmstart_decisiveness/manifest.json", environment=study.environments
        ),
        runs=expand(
            f"{RUN}/decisiveness/manifest.json",
            environment=study.environments,
            method=study.measured,
            seed=study.seeds,
        ),
        halfways=[
            f"{STUDY}/{environment}/{method}/seed{seed}/decisiveness_halfway/manifest.json"
            for environment in study.environments
            for method in study.measured_halfway(environment)
            for seed in study.seeds
        ],
    output:
        manifest=f"{DECISIVENESS}/manifest.json",
        page=f"{DECISIVENESS}/README.md",
        figures=directory(f"{DECISIVENESS}/figures"),
        tables=directory(f"{DECISIVENESS}/tables"),
    log:
        f"{STUDY}/logs/decisiveness_report.log",
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=10,
    params:
        results=subpath(output.manifest, ancestor=3),
        out=subpath(output.manifest, parent=True),
    message:
        "Report of decisiveness"
    shell:
        "python -m empg decisiveness-report --log {log} --config {input.config} --results {params.results}"
        " --out {params.out}"
