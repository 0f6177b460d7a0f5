# The data set behind its manifest, and what is imbalanced in it before any training.


rule data:
    input:
        # Settings compare its content, so that a new time stamp alone makes nothing stale.
        source=ancient(pipeline.source_of),
        code=pipeline.code("data"),
    output:
        train=at.annotations("train"),
        val=at.annotations("val"),
        manifest=at.manifest,
        validation=[at.validation, at.validation_table],
    log:
        condition_logs / "data.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("data"),
    shell:
        "python -m imbdet data {params.study:q} > {log:q} 2>&1"


rule features:
    input:
        annotations=[at.annotations("train"), at.annotations("val")],
        manifest=at.manifest,
        weights=pipeline.weights_of,
        code=pipeline.code_of("features"),
    output:
        features=at.features_record("{detector}"),
    log:
        condition_logs / "features-{detector}.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("features"),
    shell:
        "python -m imbdet features {params.study:q} {wildcards.detector:q} > {log:q} 2>&1"


rule census:
    input:
        annotations=at.annotations("train"),
        manifest=at.manifest,
        weights=pipeline.weights_of,
        code=pipeline.code_of("census"),
    output:
        census=at.census("{detector}"),
        structure=at.structure("{detector}"),
    log:
        condition_logs / "census-{detector}.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("census"),
    shell:
        "python -m imbdet census {params.study:q} {wildcards.detector:q} > {log:q} 2>&1"
