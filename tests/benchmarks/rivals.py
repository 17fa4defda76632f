"""Ours and the rivals: all explain the evidence of the assigned cluster, of the same points, by the same centroids."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zennit_neon import NeuralizedKMeans, explain

from .timing import Contestant

OURS, GIVEN = "ours", "ours, beta given"
BACKWARD, LEAN = "forward+backward", "lean forward+backward"
IG, IG_SUMMED = "captum IG-10", "captum IG-10, summed gradient"
ABLATION, SHAP = "captum ablation", "KernelSHAP"

#: Rows that slow rivals get; their time is scaled to the whole case (all of them are linear in rows).
IG_ROWS, ABLATION_ROWS, SHAP_ROWS = 500, 200, 2
#: Rows of the whole-data rivals: beyond, graph and gradients of a single call would mostly measure the allocator.
MOST_ROWS = 100_000
#: Ablation takes d forward passes and SHAP at least 2 d: beyond this they are not run.
MOST_FEATURES = 100
STEPS = 10


@dataclass
class Case:
    """Points and centroids; ``name`` as it stands in the tables."""

    name: str
    x: Tensor
    centroids: Tensor
    head: NeuralizedKMeans = field(init=False)
    beta: float = field(init=False)

    def __post_init__(self) -> None:
        # no beta: "ours" has to find it on the data (Eq. 3) within its time
        self.head = NeuralizedKMeans(self.centroids)
        self.beta = float(explain(self.head, self.x).beta)


def mixture(n: int, d: int, k: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around k centroids. Neighbouring clusters overlap unless d is large."""
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.randn(k, d, generator=generator, dtype=dtype)
    # in place and without a second (n, d): the memory benchmark must not leave freed space behind
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    for rows in x.split(10_000):
        rows += centroids[torch.randint(k, (len(rows),), generator=generator)]
    return x, centroids


def synthetic(n: int, d: int, k: int, dtype: torch.dtype = torch.float32) -> Case:
    """A case of :func:`mixture`."""
    kind = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    return Case(f"N={n:,}, d={d}, K={k}{kind}", *mixture(n, d, k, dtype))


def digits() -> Case:
    """The handwritten digits of scikit-learn and k-means on them."""
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_digits

    x = load_digits().data.astype(np.float32)
    model = KMeans(10, n_init=1, random_state=0).fit(x)
    return Case("digits: N=1,797, d=64, K=10", torch.from_numpy(x), torch.from_numpy(model.cluster_centers_))


def backward(head: NeuralizedKMeans, x: Tensor) -> Tensor:
    """Gradient of the evidence, through the head as it is."""
    x = x.detach().requires_grad_()
    evidence = head(x)
    assigned = evidence.detach().argmax(1, keepdim=True)
    evidence.gather(1, assigned).sum().backward()
    assert x.grad is not None
    return x.grad


def lean_backward(centroids: Tensor, x: Tensor) -> Tensor:
    """The same gradient with no module and no check, in the fewest operations we know: the hardest rival."""
    x = x.detach().requires_grad_()
    scores = torch.addmm(-centroids.square().sum(1), x, centroids.t(), alpha=2)
    best = scores.topk(2, 1).values
    (best[:, 0] - best[:, 1]).sum().backward()
    assert x.grad is not None
    return x.grad


def integrated(head: NeuralizedKMeans, x: Tensor, mean: Tensor, summed: bool) -> Tensor:
    """Captum's IntegratedGradients from the data mean.

    Its own gradient function asks autograd for one root a row, whose time grows with the square of the rows; so it
    gets few rows at a time. ``summed`` replaces that function by one that sums first: the same numbers, much faster.
    """
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(head)
    if summed:
        method.gradient_func = _summed_gradient
    with torch.no_grad():
        target = head(x).argmax(1)
    # captum takes no less than all rows at once; three steps at a time were the fastest
    at_once = len(x) * (3 if summed else 1)
    return method.attribute(x, baselines=mean, target=target, n_steps=STEPS, internal_batch_size=at_once)


def _summed_gradient(
    forward_fn: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    target_ind: Tensor,
    additional_forward_args: object = None,
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        return torch.autograd.grad(forward_fn(*inputs).gather(1, target_ind[:, None]).sum(), inputs)


def ablation(head: NeuralizedKMeans, x: Tensor, mean: Tensor) -> Tensor:
    """Captum's FeatureAblation, each feature to its mean."""
    from captum.attr import FeatureAblation

    with torch.no_grad():
        target = head(x).argmax(1)
        method = FeatureAblation(head)
        return method.attribute(x, baselines=mean, target=target, perturbations_per_eval=min(10, x.shape[1]))


def kernel_shap(head: NeuralizedKMeans, x: Tensor, mean: Tensor) -> np.ndarray:
    """SHAP's KernelExplainer with its defaults and the data mean as background."""
    from shap import KernelExplainer

    def evidence_of(cluster: int) -> Callable[[np.ndarray], np.ndarray]:
        def evidence(points: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return head(torch.from_numpy(np.asarray(points)).to(x.dtype))[:, cluster].numpy()

        return evidence

    with torch.no_grad():
        target = head(x).argmax(1).tolist()
    # a model of one output each: with all K at once it would fit K explanations, of which one was asked for
    explainers = [KernelExplainer(evidence_of(cluster), mean.numpy()) for cluster in target]
    rows = x.numpy()
    return np.stack([explainers[i].shap_values(rows[i], silent=True) for i in range(len(rows))])


def contestants(case: Case, slow: bool = True) -> list[Contestant]:
    """Ours and the rivals on one case; ``slow``: also those that take minutes for the whole of it."""
    head, x = case.head, case.x
    mean = x.mean(0, keepdim=True)
    some = x[:MOST_ROWS]
    found = [
        Contestant(OURS, lambda: explain(head, x)),
        Contestant(GIVEN, lambda: explain(head, x, beta=case.beta)),
        Contestant(BACKWARD, lambda: backward(head, some), len(x) / len(some)),
        Contestant(LEAN, lambda: lean_backward(case.centroids, some), len(x) / len(some)),
        Contestant(IG_SUMMED, lambda: integrated(head, some, mean, True), len(x) / len(some)),
    ]
    if slow:
        few = x[:IG_ROWS]
        found.append(Contestant(IG, lambda: integrated(head, few, mean, False), len(x) / len(few)))
    if slow and x.shape[1] <= MOST_FEATURES:
        few, fewest = x[:ABLATION_ROWS], x[:SHAP_ROWS]
        found.append(Contestant(ABLATION, lambda: ablation(head, few, mean), len(x) / len(few)))
        found.append(Contestant(SHAP, lambda: kernel_shap(head, fewest, mean), len(x) / len(fewest)))
    return found


def quiet() -> None:
    """Rivals warn about things that are meant here."""
    warnings.filterwarnings("ignore", module="captum")
    warnings.filterwarnings("ignore", module="shap")
