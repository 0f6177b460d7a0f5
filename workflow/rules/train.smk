# One training of each experiment and seed; its images stand behind the manifest of their hashes.


rule train:
    input:
        annotations=at.annotations("train"),
        manifest=at.manifest,
        network=pipeline.network_of,
        code=pipeline.code_of("train"),
    output:
        weights=at.weights("{experiment}"),
        record=at.training("{experiment}"),
        curve=at.loss_curve("{experiment}"),
    log:
        run_logs / "train.log",
    # A training that a cluster preempts, or that was asked to stop, resumes from its checkpoint.
    retries: 2
    conda:
        "../envs/imbdet.yaml"
    threads: network_threads
    resources:
        gpu=gpu,
    params:
        study=pipeline.command_study,
        settings=pipeline.settings_of("train"),
    shell:
        "python -m imbdet train {params.study:q} {wildcards.experiment:q} --seed {wildcards.seed:q} "
        "--processes {resources.gpu} > {log:q} 2>&1"
