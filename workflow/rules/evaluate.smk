# From trained weights to records: detections, scores, sampled logits, examples to look at.


rule detect:
    input:
        weights=at.weights("{experiment}"),
        annotations=at.annotations("val"),
        manifest=at.manifest,
        network=pipeline.network_of,
        code=pipeline.code_of("detect"),
    output:
        detections=at.detections("{experiment}"),
    log:
        run_logs / "detect.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("detect"),
    shell:
        "python -m imbdet detect {params.study:q} {wildcards.experiment:q} --seed {wildcards.seed:q} > {log:q} 2>&1"


rule evaluate:
    input:
        detections=at.detections("{experiment}"),
        annotations=at.annotations("val"),
        code=pipeline.code_of("evaluate"),
    output:
        evaluation=at.evaluation("{experiment}"),
        curves=at.precision_recall("{experiment}"),
    log:
        run_logs / "evaluate.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("evaluate"),
    shell:
        "python -m imbdet evaluate {params.study:q} {wildcards.experiment:q} --seed {wildcards.seed:q} > {log:q} 2>&1"


rule errors:
    input:
        detections=at.detections("{experiment}"),
        annotations=at.annotations("val"),
        code=pipeline.code("errors"),
    output:
        errors=at.errors("{experiment}"),
    log:
        run_logs / "errors.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("errors"),
    shell:
        "python -m imbdet errors {params.study:q} {wildcards.experiment:q} --seed {wildcards.seed:q} > {log:q} 2>&1"


rule intervals:
    input:
        detections=pipeline.all_detections,
        annotations=at.annotations("val"),
        code=pipeline.code("intervals"),
    output:
        intervals=at.intervals,
    log:
        condition_logs / "intervals.log",
    conda:
        "../envs/imbdet.yaml"
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("intervals"),
    shell:
        "python -m imbdet intervals {params.study:q} > {log:q} 2>&1"


rule loss_samples:
    input:
        weights=at.weights("{experiment}"),
        annotations=at.annotations("val"),
        manifest=at.manifest,
        network=pipeline.network_of,
        code=pipeline.code_of("loss_samples"),
    output:
        logits=at.logits("{experiment}"),
        curves=at.cumulative_loss("{experiment}"),
    log:
        run_logs / "loss_samples.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("loss_samples"),
    shell:
        "python -m imbdet loss-samples {params.study:q} {wildcards.experiment:q} --seed {wildcards.seed:q} > {log:q} 2>&1"


rule inspect:
    input:
        weights=at.weights("{experiment}"),
        annotations=at.annotations("val"),
        manifest=at.manifest,
        network=pipeline.network_of,
        code=pipeline.code_of("inspect"),
    output:
        candidates=at.candidates("{experiment}"),
        method_loss=at.method_loss("{experiment}"),
        gradient_shares=at.gradient_shares("{experiment}"),
    log:
        run_logs / "inspect.log",
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("inspect"),
    shell:
        "python -m imbdet inspect {params.study:q} {wildcards.experiment:q} --seed {wildcards.seed:q} > {log:q} 2>&1"


if pipeline.study.report.funnel:
    (two_stage,) = pipeline.study.report.funnel

    rule funnel:
        input:
            weights=layout.weights(two_stage),
            annotations=layout.annotations("train"),
            manifest=layout.manifest,
            network=network_inputs(pipeline.study, pipeline.study.experiments[two_stage].detector),
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
