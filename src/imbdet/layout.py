"""Where each file of a study lies. The Snakefile, the DVC pipeline, the commands and the tests all ask here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from imbdet.config import Study

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Layout:
    """Paths of one study, relative to the project's root.

    Small records and figures are in Git; annotations, weights, detections and logits are in DVC's cache; images are
    in neither: a manifest of hashes stands for them, and the same command makes or fetches them again.
    """

    study: str
    data_folder: str
    seed: int | str

    @classmethod
    def of(cls, study: Study) -> Self:
        """The files of a study; those of a run are of its first seed."""
        return cls(study.name, study.data.folder, study.seed)

    def at_seed(self, seed: int | str) -> Self:
        """The same with the runs of another seed; or of ``{seed}``, for Snakemake."""
        return replace(self, seed=seed)

    # Data
    def annotations(self, split: str) -> Path:
        """COCO annotations of ``train`` or ``val`` (DVC)."""
        return Path(self.data_folder) / "annotations" / f"instances_{split}.json"

    def images(self, split: str) -> Path:
        """Folder of the images of a split (neither Git nor DVC)."""
        return Path(self.data_folder) / split

    def features(self, name: str) -> Path:
        """Folder of a frozen backbone's features, one for all detectors that read the same (neither Git nor DVC)."""
        return Path(self.data_folder) / "features" / name

    # Records, in Git
    @property
    def results(self) -> Path:
        return Path("results") / self.study

    @property
    def manifest(self) -> Path:
        """Source, counts and hashes of the data set."""
        return self.results / "data.json"

    @property
    def validation(self) -> Path:
        """Defects of the data set and what became of them."""
        return self.results / "validation.json"

    @property
    def validation_table(self) -> Path:
        """The same for people (Markdown)."""
        return self.results / "validation.md"

    def census(self, detector: str) -> Path:
        """Foreground, background and ignored anchors by level, and boxes by class."""
        return self.results / f"census-{detector}.json"

    def structure(self, detector: str) -> Path:
        """A detector as built: levels, strides, shapes, anchors."""
        return self.results / f"structure-{detector}.json"

    def features_record(self, detector: str) -> Path:
        """Of what the stored features of a detector are, and how large."""
        return self.results / f"features-{detector}.json"

    @property
    def funnel(self) -> Path:
        """Foreground and background from the anchors to the RoI head's sample, of a trained two-stage detector."""
        return self.results / "funnel.json"

    @property
    def examples(self) -> Path:
        """Ground truth and detections of a few images; their pixels only where the data are generated."""
        return self.results / "examples.json"

    @property
    def intervals(self) -> Path:
        """How sure each AP and each difference between methods is."""
        return self.results / "intervals.json"

    # Records of one run: an experiment trained with one seed
    def _run(self, experiment: str) -> Path:
        return self.results / experiment / f"seed-{self.seed}"

    def training(self, experiment: str) -> Path:
        """Record of a training: configuration, versions, hardware, time."""
        return self._run(experiment) / "training.json"

    def loss_curve(self, experiment: str) -> Path:
        """Step, learning rate and loss terms (CSV)."""
        return self._run(experiment) / "loss_curve.csv"

    def validation_curve(self, experiment: str) -> Path:
        """Step and AP on the val split while training (CSV), if asked for; declared to neither tool."""
        return self._run(experiment) / "validation_curve.csv"

    def evaluation(self, experiment: str) -> Path:
        """AP, AR, per-class figures and counts."""
        return self._run(experiment) / "evaluation.json"

    def precision_recall(self, experiment: str) -> Path:
        """Precision at 101 recalls by IoU threshold (CSV)."""
        return self._run(experiment) / "precision_recall.csv"

    def errors(self, experiment: str) -> Path:
        """How much AP each kind of error costs, and the scores of foreground and background."""
        return self._run(experiment) / "errors.json"

    def cumulative_loss(self, experiment: str) -> Path:
        """Cumulative normalised focal loss by gamma, foreground and background (CSV)."""
        return self._run(experiment) / "cumulative_loss.csv"

    def candidates(self, experiment: str) -> Path:
        """How the method treats each of a sample of candidates (CSV)."""
        return self._run(experiment) / "candidates.csv"

    def method_loss(self, experiment: str) -> Path:
        """Cumulative normalised loss of the method itself, foreground and background (CSV)."""
        return self._run(experiment) / "method_loss.csv"

    def gradient_shares(self, experiment: str) -> Path:
        """Shares of the gradient by set of logits and difficulty (CSV)."""
        return self._run(experiment) / "gradient_shares.csv"

    # Large outputs, in DVC's cache
    def weights(self, experiment: str) -> Path:
        return Path("models") / self.study / experiment / f"seed-{self.seed}.pt"

    def best_weights(self, experiment: str) -> Path:
        """Weights of the best evaluation while training, if asked for; declared to neither tool."""
        return self.weights(experiment).with_suffix(".best.pt")

    def _predictions(self, experiment: str) -> Path:
        return Path("predictions") / self.study / experiment / f"seed-{self.seed}"

    def detections(self, experiment: str) -> Path:
        """Every detection on the val split (npz)."""
        return self._predictions(experiment) / "detections.npz"

    def logits(self, experiment: str) -> Path:
        """Sampled foreground and background logits (npz)."""
        return self._predictions(experiment) / "logits.npz"

    # State for resuming: declared to neither tool, both of which delete declared outputs
    def scratch(self, experiment: str) -> Path:
        return Path("scratch") / self.study / experiment / f"seed-{self.seed}"

    # Figures
    @property
    def figures(self) -> Path:
        return Path("paper_figures") / self.study

    @property
    def report(self) -> Path:
        """The whole study as one page (neither Git nor DVC)."""
        return Path("report") / f"{self.study}.html"
