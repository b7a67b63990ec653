TESTBED = f"{STUDY}/testbed"


rule testbed:
    input:
        config=f"{STUDY}/config/testbed/{{part}}.json",
        sources="results/sources/testbed.json",
    output:
        manifest=f"{TESTBED}/{{part}}/manifest.json",
        table=f"{TESTBED}/{{part}}/{{part}}.parquet",
    log:
        f"{STUDY}/logs/testbed/{{part}}.log",
    wildcard_constraints:
        part="gradients|learning",
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=60,
    params:
        out=subpath(output.manifest, parent=True),
    message:
        "Testbed: {wildcards.part}"
    shell:
        "python -m empg testbed --log {log} --config {input.config} --out {params.out}"


rule testbed_report:
    input:
        config=f"{STUDY}/config/study.json",
        sources="results/sources/testbed_report.json",
        parts=expand(f"{TESTBED}/{{part}}/manifest.json", part=["gradients", "learning"]),
    output:
        manifest=f"{TESTBED}/report/manifest.json",
        page=f"{TESTBED}/report/README.md",
        figures=directory(f"{TESTBED}/report/figures"),
        tables=directory(f"{TESTBED}/report/tables"),
    log:
        f"{STUDY}/logs/testbed/report.log",
    conda:
        SOFTWARE
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        results=subpath(output.manifest, ancestor=2),
        out=subpath(output.manifest, parent=True),
    message:
        "Report of the testbed"
    shell:
        "python -m empg testbed-report --log {log} --config {input.config} --results {params.results} --out {params.out}"
