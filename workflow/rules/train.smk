# One training an experiment; its images stand behind the manifest of their hashes.


rule train:
    input:
        annotations=layout.annotations("train"),
        manifest=layout.manifest,
        code=lambda wildcards: pipeline.code("train", wildcards.experiment),
    output:
        weights=layout.weights("{experiment}"),
        record=layout.training("{experiment}"),
        curve=layout.loss_curve("{experiment}"),
    log:
        logs / "{experiment}" / "train.log",
    # A training that a cluster preempts, or that was asked to stop, resumes from its checkpoint.
    retries: 2
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=str(pipeline.path),
        settings=lambda wildcards: pipeline.settings("train", wildcards.experiment),
    shell:
        "python -m imbdet train {params.study:q} {wildcards.experiment:q} > {log:q} 2>&1"
