# From trained weights to records: detections, scores, sampled logits, examples to look at.


rule detect:
    input:
        weights=layout.weights("{experiment}"),
        annotations=layout.annotations("val"),
        manifest=layout.manifest,
        code=lambda wildcards: pipeline.code("detect", wildcards.experiment),
    output:
        detections=layout.detections("{experiment}"),
    log:
        logs / "{experiment}" / "detect.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=str(pipeline.path),
        settings=lambda wildcards: pipeline.settings("detect", wildcards.experiment),
    shell:
        "python -m imbdet detect {params.study:q} {wildcards.experiment:q} > {log:q} 2>&1"


rule evaluate:
    input:
        detections=layout.detections("{experiment}"),
        annotations=layout.annotations("val"),
        code=lambda wildcards: pipeline.code("evaluate", wildcards.experiment),
    output:
        evaluation=layout.evaluation("{experiment}"),
        curves=layout.precision_recall("{experiment}"),
    log:
        logs / "{experiment}" / "evaluate.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=str(pipeline.path),
        settings=lambda wildcards: pipeline.settings("evaluate", wildcards.experiment),
    shell:
        "python -m imbdet evaluate {params.study:q} {wildcards.experiment:q} > {log:q} 2>&1"


rule loss_samples:
    input:
        weights=layout.weights("{experiment}"),
        annotations=layout.annotations("val"),
        manifest=layout.manifest,
        code=lambda wildcards: pipeline.code("loss_samples", wildcards.experiment),
    output:
        logits=layout.logits("{experiment}"),
        curves=layout.cumulative_loss("{experiment}"),
    log:
        logs / "{experiment}" / "loss_samples.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=str(pipeline.path),
        settings=lambda wildcards: pipeline.settings("loss_samples", wildcards.experiment),
    shell:
        "python -m imbdet loss-samples {params.study:q} {wildcards.experiment:q} > {log:q} 2>&1"


rule inspect:
    input:
        weights=layout.weights("{experiment}"),
        annotations=layout.annotations("val"),
        manifest=layout.manifest,
        code=lambda wildcards: pipeline.code("inspect", wildcards.experiment),
    output:
        candidates=layout.candidates("{experiment}"),
        method_loss=layout.method_loss("{experiment}"),
        gradient_shares=layout.gradient_shares("{experiment}"),
    log:
        logs / "{experiment}" / "inspect.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=str(pipeline.path),
        settings=lambda wildcards: pipeline.settings("inspect", wildcards.experiment),
    shell:
        "python -m imbdet inspect {params.study:q} {wildcards.experiment:q} > {log:q} 2>&1"


if pipeline.study.report.funnel:
    (two_stage,) = pipeline.study.report.funnel

    rule funnel:
        input:
            weights=layout.weights(two_stage),
            annotations=layout.annotations("train"),
            manifest=layout.manifest,
            code=pipeline.code("funnel", two_stage),
        output:
            funnel=layout.funnel,
        log:
            logs / "funnel.log",
        conda:
            "../envs/imbdet.yaml"
        threads: network_threads
        resources:
            gpu=gpu,
        params:
            arguments=[str(pipeline.path), two_stage],
            settings=pipeline.settings("funnel", two_stage),
        shell:
            "python -m imbdet funnel {params.arguments:q} > {log:q} 2>&1"


rule examples:
    input:
        detections=[layout.detections(name) for name in pipeline.study.report.detections],
        annotations=layout.annotations("val"),
        manifest=layout.manifest,
        code=pipeline.code("examples"),
    output:
        examples=layout.examples,
    log:
        logs / "examples.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=str(pipeline.path),
        settings=pipeline.settings("examples"),
    shell:
        "python -m imbdet examples {params.study:q} > {log:q} 2>&1"
