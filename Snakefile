# The steps of one study, by default the demo; another with `--config study=NAME` or `--configfile config/NAME.yaml`.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from imbdet import figures
from imbdet.errors import UserError
from imbdet.pipeline import Pipeline, has_gpu, select_study
from imbdet.runs import claim, end_together

try:
    end_together()
    command_line = workflow.config_settings
    pipeline = Pipeline(select_study(command_line.config, command_line.configfiles))
except UserError as error:
    raise WorkflowError(str(error)) from None
layout = pipeline.layout
logs = Path("logs") / pipeline.study.name
# A network has the GPU to itself, with all cores to feed it. Without one it takes a single core: two trainings side by
# side are faster than one on two cores, and its results do not depend on how many cores there are.
gpu = int(has_gpu())
network_threads = workflow.cores if gpu else 1


wildcard_constraints:
    experiment="|".join(map(re.escape, pipeline.study.experiments)),
    detector="|".join(map(re.escape, pipeline.study.detectors)),


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
