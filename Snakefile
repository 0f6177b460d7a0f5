# The steps of one study, by default the demo; another with `--config study=NAME` or `--configfile config/NAME.yaml`.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from imbdet import figures
from imbdet.errors import UserError
from imbdet.pipeline import Pipeline, has_gpu, network_inputs, select_study
from imbdet.runs import claim, end_together

try:
    end_together()
    command_line = workflow.config_settings
    pipeline = Pipeline(select_study(command_line.config, command_line.configfiles))
except UserError as error:
    raise WorkflowError(str(error)) from None
layout = pipeline.layout
at = pipeline.patterns  # files of any run: with {seed}, and in a sweep {condition}, for its rule to fill in
logs = Path("logs") / pipeline.study.name
condition_logs = logs / "{condition}" if pipeline.study.sweep else logs
run_logs = condition_logs / "{experiment}" / "seed-{seed}"
# A network has the GPU to itself, with all cores to feed it, or with `--resources gpu=8` shares both with seven others.
# Without one it takes a single core: two trainings side by side are faster than one on two cores, and its results do not
# depend on how many cores there are.
gpu = int(has_gpu())
# On a cluster its profile says both, and Snakemake itself has no number of cores.
at_once = workflow.global_resources["gpu"].value if "gpu" in workflow.global_resources else 1
network_threads = max(1, (workflow.resource_settings.cores or 1) // max(1, at_once)) if gpu else 1


report: "workflow/report.rst"


wildcard_constraints:
    experiment="|".join(map(re.escape, pipeline.study.experiments)),
    detector="|".join(map(re.escape, pipeline.study.detectors)),
    condition="|".join(map(re.escape, pipeline.study.conditions)),
    seed=r"\d+",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/figures.smk"


rule all:
    default_target: True
    input:
        [path for step in pipeline.steps() for path in step.outputs],


onstart:
    try:
        claim(Path("scratch"))
    except UserError as error:
        raise WorkflowError(str(error)) from None
    # With its limit of jobs a second (100) Snakemake looks through all waiting jobs once a second for each job that has
    # ended: in a study of a hundred trainings that took a third of a core.
    workflow.scheduler.job_rate_limiter = None
