# The data set behind its manifest, and what is imbalanced in it before any training.


rule data:
    input:
        code=pipeline.code("data"),
    output:
        train=layout.annotations("train"),
        val=layout.annotations("val"),
        manifest=layout.manifest,
        validation=[layout.validation, layout.validation_table],
    log:
        logs / "data.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=str(pipeline.path),
        settings=pipeline.settings("data"),
    shell:
        "python -m imbdet data {params.study:q} > {log:q} 2>&1"


rule census:
    input:
        annotations=layout.annotations("train"),
        manifest=layout.manifest,
        code=lambda wildcards: pipeline.code("census", wildcards.detector),
    output:
        census=layout.census("{detector}"),
        structure=layout.structure("{detector}"),
    log:
        logs / "census-{detector}.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=str(pipeline.path),
        settings=lambda wildcards: pipeline.settings("census", wildcards.detector),
    shell:
        "python -m imbdet census {params.study:q} {wildcards.detector:q} > {log:q} 2>&1"
