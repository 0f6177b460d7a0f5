"""``python -m imbdet inspect STUDY EXPERIMENT``: how a method treats each candidate of its trained detector.

One pass over the val split, with the candidates that training would use: all anchors, or the sampled proposals. A
method that samples proposals by itself is shown all of them. The method is asked by its gradients, so that all are
measured alike:

- *effective weight* of a candidate: norm of its logits' gradient over that of plain cross entropy on the same logits;
- *loss* of a candidate: its share of the classification loss, which is the slope with respect to its weight;
- *gradient share*: sum of the absolute gradients of the logits of one kind over the sum of all.

Each is of the classification loss before it is divided by the normaliser. What is not selected has a weight of 0.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from imbdet.config import Study
from imbdet.data.loader import EvaluationBatches
from imbdet.detectors.faster_rcnn import FasterRCNN
from imbdet.evaluation.cumulative import cumulative
from imbdet.evaluation.detect import load_trained
from imbdet.evaluation.reservoir import Reservoir
from imbdet.files import write_text
from imbdet.layout import Layout
from imbdet.methods import Method
from imbdet.samples import Candidates, Kept, Samples, Stage
from imbdet.seeding import generator

Floats = NDArray[np.float64]
CANDIDATES = 600  # of either kind in candidates.csv, which Git keeps
LOSSES = 100_000  # of either kind behind the curves of cumulative loss
HARD, EASY = 0.5, 0.9  # p_t up to which a logit is called hard, and above which easy
DIFFICULTIES = ("hard", "middling", "easy")
KINDS = ("foreground", "background")
SETS = (*KINDS, "other classes")
SUMS = ("logits", "gradient", "cross_entropy")


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Write ``candidates.csv``, ``method_loss.csv`` and ``gradient_shares.csv`` of an experiment.

    candidates: a random sample of the foreground and of the background, a row each: p_t, IoU of prior and of prediction
    with the ground truth, class (-1 for background), effective weight, loss, and what the method says of itself. Of a
    method that selects, as many of the selected as of the others. ``represents``: how many such candidates there are
    for each in the sample.
    method_loss: the share of the method's own loss that the easiest fraction of the candidates carries.
    gradient_shares: by set of logits and difficulty, and again by set and class, shares of the logits and of the
    gradient; and in the gradient's unit, what plain cross entropy gives on the same logits.
    """
    batches = EvaluationBatches(study, layout, experiment, "val")
    model, device = load_trained(study, layout, experiment)
    stage: Stage = list(study.experiment(experiment).methods)[-1]
    method = model.method(stage)
    if isinstance(model, FasterRCNN) and method.sampler() is not None:
        model.samplers["roi"] = _everything  # all proposals; :func:`observe` asks the method's own sampler
    drawn, sums = Drawn(study.seed), dict[str, Floats]()
    for batch in tqdm(batches, desc=f"inspect {experiment}", mininterval=5):
        with torch.no_grad():
            samples = model.samples(batch.to(device))[stage]
        seen = observe(method, samples)
        drawn.add(samples, seen.rows)
        for by, values in gradient_sums(method, samples, seen.gradient).items():
            sums[by] = sums.get(by, 0.0) + values
    write_text(layout.candidates(experiment), drawn.candidates().to_csv(index=False, float_format="%.5g"))
    write_text(layout.method_loss(experiment), drawn.curves().to_csv(index=False, float_format="%.6g"))
    write_text(layout.gradient_shares(experiment), share_table(sums).to_csv(index=False, float_format="%.6g"))


def _everything(candidates: Candidates, score: Callable[[], Samples], generator: torch.Generator | None) -> Kept:
    rows = torch.arange(len(candidates.label), device=candidates.label.device)
    return Kept(rows, torch.ones_like(rows, dtype=torch.bool), candidates.weight)


@dataclass(frozen=True)
class Observed:
    """rows: [N] values of each candidate, by name. gradient: [N, C] of the undivided classification loss."""

    rows: dict[str, Tensor]
    gradient: Tensor


def observe(method: Method, samples: Samples) -> Observed:
    """Ask a method, in evaluation mode, what it does with each of N candidates."""
    chosen = _chosen(method, samples)
    logits = chosen.logits.detach().requires_grad_()
    weight = chosen.weight.detach().clone().requires_grad_()
    # A method that selects divides by a count of its selection: the divisor is what it was, not what it would be here.
    divisors: list[Tensor] = []
    hook = method.normalizer.register_forward_hook(lambda module, inputs, output: divisors.append(output))
    loss = method(replace(chosen, logits=logits, weight=weight))["classification"]
    hook.remove()
    (divisor,) = divisors
    gradient, slope = torch.autograd.grad(loss, (logits, weight))
    gradient = gradient * (divisor[:, None] if divisor.dim() else divisor)
    plain = cross_entropy_gradient(method, samples).norm(dim=1)
    rows = {
        "class": torch.where(samples.foreground, samples.label, -1),
        "p_t": probability_of_label(method, samples),
        "prior_iou": samples.prior_iou,
        "predicted_iou": samples.predicted_iou,
        "effective_weight": gradient.norm(dim=1) / plain.clamp(min=torch.finfo(plain.dtype).tiny),
        "loss": slope * chosen.weight * divisor,
        **method.inspect(chosen),
    }
    return Observed(rows if chosen is samples else rows | {"selected": (chosen.label >= 0).float()}, gradient)


def _chosen(method: Method, samples: Samples) -> Samples:
    """The same N candidates, ignored but for those that the method's own sampler keeps of proposals."""
    sampler = method.sampler()
    if sampler is None or samples.stage == "dense":
        return samples
    kept = sampler(samples, lambda: samples, samples.generator)
    index = kept.index[kept.valid]
    label = torch.full_like(samples.label, -1).index_copy(0, index, samples.label[index])
    weight = torch.zeros_like(samples.weight).index_copy(0, index, kept.weight[kept.valid].to(samples.weight))
    return replace(samples, label=label, weight=weight)


def cross_entropy_gradient(method: Method, samples: Samples) -> Tensor:
    """[N, C] gradient of plain cross entropy: probabilities minus targets, of sigmoid or softmax as the head has."""
    softmax = method.head.activation == "softmax"
    probabilities = samples.logits.softmax(1) if softmax else samples.logits.sigmoid()
    return probabilities - _is_target(samples).to(probabilities)


def _is_target(samples: Samples) -> Tensor:
    """[N, C] bool, the column of each row's label; background has one with softmax alone."""
    return torch.arange(samples.logits.shape[1], device=samples.label.device) == samples.label[:, None]


def probability_of_label(method: Method, samples: Samples) -> Tensor:
    """[N] p_t of each row: of its class or, for background rows, that of no class (sigmoid: no column says yes)."""
    if method.head.activation == "softmax":
        return samples.logits.softmax(1).gather(1, samples.label.clamp(min=0)[:, None])[:, 0]
    # Of a background row the likeliest class decides, which is the one that would become a detection.
    return torch.where(samples.foreground, samples.target_logits, -samples.logits.amax(1)).sigmoid()


def gradient_sums(method: Method, samples: Samples, gradient: Tensor) -> dict[str, Floats]:
    """Number of logits, sum of their absolute gradients, and of those of plain cross entropy.

    "difficulty": [sets, difficulties, 3] and "class": [sets, C, 3]. Sets: the target columns of foreground rows; all
    columns of background rows; the other columns of foreground rows. All columns of a softmax share their row's p_t.
    """
    is_target, foreground = _is_target(samples), samples.foreground[:, None]
    background = (samples.label == samples.num_classes)[:, None].expand_as(is_target)
    if method.head.activation == "softmax":
        p_t = probability_of_label(method, samples)[:, None].expand_as(gradient)
    else:
        p_t = torch.where(is_target, samples.logits, -samples.logits).sigmoid()
    hard, easy = p_t <= HARD, p_t > EASY
    sizes = (torch.ones_like(gradient), gradient.abs(), cross_entropy_gradient(method, samples).abs())

    def sums(rows: Tensor, dim: int | None = None) -> list[Any]:
        return [torch.where(rows, size, 0.0).sum(dim, dtype=torch.float64).tolist() for size in sizes]

    by_difficulty, by_class = [], []
    for members in (foreground & is_target, background, foreground & ~is_target):
        by_difficulty.append([sums(members & level) for level in (hard, ~hard & ~easy, easy)])
        by_class.append(np.transpose(sums(members, 0)))
    return {"difficulty": np.array(by_difficulty), "class": np.array(by_class)}


def share_table(sums: dict[str, Floats]) -> pd.DataFrame:
    """Columns set, by (difficulty or class), value, and the sums of :func:`gradient_sums` as shares.

    The value is a difficulty or the column of a class, in a softmax the background's last. Gradient and cross entropy
    are both over the sum of the gradient, so that they can be compared.
    """
    parts = []
    for by, values in sums.items():
        names = DIFFICULTIES if by == "difficulty" else range(values.shape[1])
        logits, gradient, _ = values.sum(axis=(0, 1)).clip(min=np.finfo(float).tiny)
        shares = (values / [logits, gradient, gradient]).reshape(-1, len(SUMS))
        places = {"set": np.repeat(SETS, len(names)), "by": by, "value": np.tile(names, len(SETS))}
        parts.append(pd.DataFrame({**places, **dict(zip(SUMS, shares.T, strict=True))}))
    return pd.concat(parts, ignore_index=True)


class Drawn:
    """Random samples of all the candidates that were seen, of fixed size, and of their losses."""

    def __init__(self, seed: int) -> None:
        self.seed, self.batches = seed, 0
        self.rows: dict[tuple[str, bool], Reservoir] = {}
        self.losses: dict[str, Reservoir] = {}
        self.seen: Counter[tuple[str, bool]] = Counter()
        self.columns: list[str] = []

    def add(self, samples: Samples, rows: dict[str, Tensor]) -> None:
        """Offer the rows of a batch, [N] values by name; those of ignored candidates are never taken."""
        table = pd.DataFrame({name: values.cpu().numpy().astype(np.float32) for name, values in rows.items()})
        self.columns, size = list(rows), CANDIDATES // 2 if "selected" in table else CANDIDATES
        for kind, members in zip(KINDS, (samples.foreground, samples.label == samples.num_classes), strict=True):
            ours = table[members.cpu().numpy()]
            keys = generator(self.seed, f"inspect {kind}", self.batches).random(len(ours), np.float32)
            self.losses.setdefault(kind, Reservoir(LOSSES)).add(keys, ours["loss"].to_numpy())
            selected = ours["selected"].to_numpy() > 0 if "selected" in ours else np.ones(len(ours), bool)
            for half, chosen in ((True, selected), (False, ~selected)):
                self.seen[kind, half] += int(chosen.sum())
                reservoir = self.rows.setdefault((kind, half), Reservoir(size))
                reservoir.add(keys[chosen], ours[chosen].to_numpy())
        self.batches += 1

    def candidates(self) -> pd.DataFrame:
        """The content of ``candidates.csv``."""
        return _joined(
            pd.DataFrame(drawn.values, columns=self.columns).assign(
                represents=self.seen[place] / max(len(drawn.values), 1), set=place[0]
            )
            for place, drawn in self.rows.items()
        )

    def curves(self) -> pd.DataFrame:
        """The content of ``method_loss.csv``."""
        return _joined(
            cumulative(drawn.values).assign(set=kind) for kind, drawn in self.losses.items() if len(drawn.values)
        )


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table for table in tables if len(table)], ignore_index=True)
