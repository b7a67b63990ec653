from empg.report.captions import CAPTIONS


rule report:
    input:
        config=f"{STUDY}/config/study.json",
        sources="results/sources/report.json",
        identities=expand("results/data/{data_set}.json", data_set=DATA_SETS),
        warmstarts=expand(
            [
                f"{WARMSTART}/manifest.json",
                f"{STUDY}/{{environment}}/warmstart_evaluate/manifest.json",
                f"{ROLLOUTS}/manifest.json",
            ],
            environment=study.environments,
        ),
        runs=expand(
            [f"{RUN}/train/manifest.json", f"{RUN}/evaluate/manifest.json"],
            environment=study.environments,
            method=study.methods,
            seed=study.seeds,
        ),
    output:
        manifest=f"{STUDY}/report/manifest.json",
        page=f"{STUDY}/report/report.html",
        # What `snakemake --report` shows; the page, tables and trajectories would make it several times as large.
        figures=report(
            directory(f"{STUDY}/report/figures"),
            patterns=["{name}.svg"],
            caption="../report/figure.rst",
            category="Figures",
        ),
        trajectories=directory(f"{STUDY}/report/trajectories"),
        episodes=directory(f"{STUDY}/report/episodes"),
        tables=directory(f"{STUDY}/report/tables"),
    log:
        f"{STUDY}/logs/report.log",
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=60,
    params:
        results=subpath(input.config, ancestor=2),
        out=subpath(output.manifest, parent=True),
        captions={name: f"**{caption.title}.** {caption.text}" for name, caption in CAPTIONS.items()},
    message:
        "Write the report"
    shell:
        "python -m empg report --log {log} --config {input.config} --results {params.results} --out {params.out}"
