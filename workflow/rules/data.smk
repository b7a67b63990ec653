rule data:
    # DVC makes the files or takes them from its cache. Later jobs depend on their hash, `identity`.
    input:
        config="results/data/config/{data_set}.json",
        sources="results/sources/{data_set}/data.json",
    output:
        identity="results/data/{data_set}.json",
        manifest="data/{data_set}/manifest.json",
    log:
        "results/logs/data/{data_set}.log",
    priority: 60
    localrule: True
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=60,
    message:
        "Make the data set ({wildcards.data_set})"
    shell:
        "python -m empg dvc {wildcards.data_set} --log {log} --out {output.identity}"
