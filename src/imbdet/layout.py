"""Where each file of a study lies. The Snakefile, the DVC pipeline, the commands and the tests all ask here."""

from dataclasses import dataclass
from pathlib import Path

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

    @classmethod
    def of(cls, study: Study) -> "Layout":
        return cls(study.name, study.data.folder)

    # Data
    def annotations(self, split: str) -> Path:
        """COCO annotations of ``train`` or ``val`` (DVC)."""
        return Path(self.data_folder) / "annotations" / f"instances_{split}.json"

    def images(self, split: str) -> Path:
        """Folder of the images of a split (neither Git nor DVC)."""
        return Path(self.data_folder) / split

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

    @property
    def funnel(self) -> Path:
        """Foreground and background from the anchors to the RoI head's sample, of a trained two-stage detector."""
        return self.results / "funnel.json"

    @property
    def examples(self) -> Path:
        """Ground truth and detections of a few images; their pixels only where the data are generated."""
        return self.results / "examples.json"

    def training(self, experiment: str) -> Path:
        """Record of a training: configuration, versions, hardware, time."""
        return self.results / experiment / "training.json"

    def loss_curve(self, experiment: str) -> Path:
        """Step, learning rate and loss terms (CSV)."""
        return self.results / experiment / "loss_curve.csv"

    def validation_curve(self, experiment: str) -> Path:
        """Step and AP on the val split while training (CSV), if asked for; declared to neither tool."""
        return self.results / experiment / "validation_curve.csv"

    def evaluation(self, experiment: str) -> Path:
        """AP, AR, per-class figures and counts."""
        return self.results / experiment / "evaluation.json"

    def precision_recall(self, experiment: str) -> Path:
        """Precision at 101 recalls by IoU threshold (CSV)."""
        return self.results / experiment / "precision_recall.csv"

    def cumulative_loss(self, experiment: str) -> Path:
        """Cumulative normalised focal loss by gamma, foreground and background (CSV)."""
        return self.results / experiment / "cumulative_loss.csv"

    def candidates(self, experiment: str) -> Path:
        """How the method treats each of a sample of candidates (CSV)."""
        return self.results / experiment / "candidates.csv"

    def method_loss(self, experiment: str) -> Path:
        """Cumulative normalised loss of the method itself, foreground and background (CSV)."""
        return self.results / experiment / "method_loss.csv"

    def gradient_shares(self, experiment: str) -> Path:
        """Shares of the gradient by set of logits and difficulty (CSV)."""
        return self.results / experiment / "gradient_shares.csv"

    # Large outputs, in DVC's cache
    def weights(self, experiment: str) -> Path:
        return Path("models") / self.study / f"{experiment}.pt"

    def best_weights(self, experiment: str) -> Path:
        """Weights of the best evaluation while training, if asked for; declared to neither tool."""
        return self.weights(f"{experiment}.best")

    def detections(self, experiment: str) -> Path:
        """Every detection on the val split (npz)."""
        return Path("predictions") / self.study / experiment / "detections.npz"

    def logits(self, experiment: str) -> Path:
        """Sampled foreground and background logits (npz)."""
        return Path("predictions") / self.study / experiment / "logits.npz"

    # State for resuming: declared to neither tool, both of which delete declared outputs
    def scratch(self, experiment: str) -> Path:
        return Path("scratch") / self.study / experiment

    # Figures
    @property
    def figures(self) -> Path:
        return Path("paper_figures") / self.study
