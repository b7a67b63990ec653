rule data:
    # DVC owns the files: it makes them, or takes them from its cache. What stands for them here is their hash.
    input:
        config="results/data/config/{environment}.json",
        sources="results/sources/{environment}/data.json",
    output:
        identity="results/data/{environment}.json",
        manifest="data/{environment}/manifest.json",
    log:
        "results/logs/data/{environment}.log",
    priority: 60
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    message:
        "Make the data set {wildcards.environment}."
    shell:
        "python -m empg dvc {wildcards.environment} --out {output.identity} 2> {log}"
