"""How well do summaries of images match masks of their objects? Scores by method and block (Fig. 8, paper 1)."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from zennit.core import Composite

from ...composites import VGGBlocks
from ...exceptions import TooFewClustersError, TooSmallError
from ...images import smoothed
from ...network import Network
from ...utils.validation import check_int
from ...vision import layer_of_block
from ..matching import Matching, match
from .heatmap_methods import DISSECTION, FIRST_DISSECTED, LayerContext, Method, method_of
from .heatmap_scores import SCORES
from .layer_relevance import SharedPass, activations_of, shared_pass
from .network_dissection import TopQuantile, halves, thresholds_kept
from .result_store import ResultStore
from .scores import Scores
from .voc import VOCDataset, VOCImage

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["match_objects"]

#: Share of a unit's activations above its threshold in network dissection.
SHARE = 0.005

#: From flat blocks, and a gamma where a method names one, to the rules of the network.
Rules = Callable[..., Composite]
#: Called with an image, a block, a method's name, its heatmaps (K, H, W), and how they match.
Watch = Callable[[VOCImage, int, str, Tensor, Matching], None]


def match_objects(
    network: Network,
    scenes: VOCDataset,
    blocks: Sequence[int] = (1, 2, 3, 4, 5),
    methods: Sequence[str] = ("neon", "fm", "lo"),
    n_clusters: int = 4,
    *,
    background: bool = True,
    random_state: int = 0,
    rules: Rules | None = None,
    out: str | Path | None = None,
    thresholds: str | Path | None = None,
    watch: Watch | None = None,
    wanted: Callable[[str, int, str], bool] | None = None,
    progress: bool = False,
) -> Scores:
    """Summarise images by K heatmaps each, and match those with the masks of their objects (Fig. 8, paper 1).

    Each image is scored by the cosine similarity of the paper, by correlation and by average precision, with a
    matching for each: :meth:`Scores.by <zennit_neon.evaluation.Scores.by>` has the others.

    Parameters
    ----------
    network : Network
        A network with blocks that end in max pooling, as :func:`zennit_neon.vision.load_vgg16` gives it.
    scenes : VOCDataset
    blocks : sequence of int
    methods : sequence of str
        ``neon`` (the image's own K clusters at the end of the block, explained), ``fm`` (the K feature maps with the
        largest maximum), ``lo`` (the K locations with the largest activation); each of them with flat rules in the
        first n blocks as ``neon_flat3``, and with another gamma than the paper's as ``neon_gamma0.5``; ``masks`` and
        ``evidence`` of the clusters, upsampled without propagation; ``uniform`` heatmaps, for which S is the root of
        the area of the masks, correlation 0, and average precision the area; ``noise``, which shows what matching makes
        of any heatmaps;
        ``netdissect1`` and ``netdissect2`` (from block 3 on); ``gradient_x_input`` and ``ig`` of the positive evidence.
        All of them also smoothed in the end, by 16 pixels as ``neon_smooth16`` or ``neon_flat3_smooth16``
        (:func:`zennit_neon.images.smoothed`).
    n_clusters : int
    background : bool
        Whether the background counts as an object.
    random_state : int
        Seed of k-means, and of the halves for network dissection.
    rules : callable, optional
        From a number of flat blocks to the composite for the network, with ``gamma=`` for methods that name one;
        :class:`~zennit_neon.composites.VGGBlocks` with the bounds of the network if not given. ``out`` does not tell
        results of different rules apart.
    out : path, optional
        A CSV file to which each result is written at once. Those that are there already, with the same settings, are
        not computed again.
    thresholds : path, optional
        A file to keep the thresholds of network dissection in (``.npz``).
    watch : callable, optional
        Called with (image, block, method, heatmaps, matching by cosine similarity) of each result that is computed.
    wanted : callable, optional
        From (image, block, method) to whether to compute that although it is known.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If a method or a block does not exist, or ``out`` holds something else.

    Notes
    -----
    Images without any mask, those that are too small for a block, and those of which a layer has fewer than K
    different features, have a score of NaN.
    Thresholds of network dissection come from images that they are not used for: ``scenes`` are split at random into
    two halves, and each takes those of the other. So runs with different limits need an ``out`` each, and a single
    image has no score.
    """
    if isinstance(methods, str) or not len(methods):
        raise ValueError(f"methods must be a list of at least one name, got {methods!r}")
    n_clusters = check_int(n_clusters, "n_clusters", 2)
    if not isinstance(blocks, Iterable) or not len(blocks):
        raise ValueError(f"blocks must be a list of at least one number, got {blocks!r}")
    layers = {block: layer_of_block(network.model, block) for block in (check_int(block, "blocks") for block in blocks)}
    chosen = [method_of(name) for name in dict.fromkeys(methods)]
    if rules is None:

        def rules(flat: int, gamma: float | None = None) -> Composite:
            own = VGGBlocks(network.low, network.high, flat=flat)
            return own if gamma is None else VGGBlocks(network.low, network.high, [gamma], flat=flat)

    settings = {
        "year": scenes.year,
        "set": scenes.image_set,
        "masks": ("objects" if scenes.objects else "classes") + (", background" if background else ""),
        "size": "own" if scenes.size is None else "x".join(map(str, _pair(scenes.size))),
        "clusters": str(n_clusters),
        "seed": str(random_state),
        "weights": f"{network.name} {network.digest}",
    }
    store = ResultStore(out, settings, ["image", "block", "method"], [*SCORES, "objects", "seconds"])
    half = halves(scenes.names, random_state)
    job = _Job(network, layers, n_clusters, random_state, rules, background, half)
    todo = {name: _asked(name, store, chosen, list(layers), wanted) for name in scenes.names}
    if any(method.make in DISSECTION for part in todo.values() for _, method in part):
        key = "; ".join(["halves", *settings.values(), str(SHARE), *layers.values(), *scenes.names])
        job.thresholds = thresholds_kept(thresholds, key, lambda: _learn(network, scenes, layers, half, progress))
    with _bar(sum(map(len, todo.values())), progress) as bar:
        for index, name in enumerate(scenes.names):
            part = todo.pop(name, [])  # a name may be listed twice
            if not part:
                continue
            image = scenes[index]
            with contextlib.closing(job.run(image, part)) as results:  # takes its rules off whatever happens here
                for block, method, maps, found, seconds in results:
                    cosine, values = found["similarity"], [found[score].score for score in SCORES]
                    store.add((name, block, method.name), (*values, len(cosine.pairs), seconds))
                    if watch is not None:
                        watch(image, block, method.name, maps, cosine)
                    bar.update()
    names = [method.name for method in chosen]
    return Scores.of(store, scenes.names, list(layers), names, settings)


def _asked(
    name: str,
    store: ResultStore,
    methods: list[Method],
    blocks: list[int],
    wanted: Callable[[str, int, str], bool] | None,
) -> list[tuple[int, Method]]:
    """Blocks and methods of an image that are still to be computed."""
    return [
        (block, method)
        for method in methods
        for block in blocks
        if not (method.make in DISSECTION and block < FIRST_DISSECTED)
        and ((name, block, method.name) not in store or (wanted is not None and wanted(name, block, method.name)))
    ]


class _Job:
    """How images are summarised."""

    def __init__(
        self,
        network: Network,
        layers: dict[int, str],
        n_clusters: int,
        seed: int,
        rules: Rules,
        background: bool,
        half: dict[str, int],
    ):
        self.network, self.layers, self.n_clusters, self.seed = network, layers, n_clusters, seed
        self.rules, self.background, self.half = rules, background, half
        self.thresholds: dict[str, Tensor] = {}

    def run(
        self, image: VOCImage, todo: list[tuple[int, Method]]
    ) -> Generator[tuple[int, Method, Tensor, dict[str, Matching], float], None, None]:
        """Block, method, heatmaps, matchings by each score, and seconds of each result."""
        x = self.network.prepare(image.pixels[None])
        masks, valid = image.masks(self.background)
        start = time.perf_counter()
        contexts = self._contexts(image, x, {block for block, _ in todo})
        ahead = (time.perf_counter() - start) / len(todo)
        for block, method in todo:
            if block not in contexts:  # nothing is left of the image there
                yield block, method, *self._nothing(x, masks), 0.0
        groups: dict[tuple[int | None, float | None], list[tuple[int, Method]]] = {}
        for block, method in todo:
            if block in contexts:
                groups.setdefault((method.flat, method.gamma), []).append((block, method))
        for (flat, gamma), part in groups.items():
            with self._passes(x, flat, gamma, [block for block, _ in part]) as (forward, seconds):
                made: dict[tuple[int, Any], tuple[Tensor, float]] = {}
                for block, method in part:
                    if (block, method.make) not in made:  # others differ by the smoothing alone
                        made[block, method.make] = _timed(contexts[block], method, forward)
                    raw, spent = made[block, method.make]
                    maps = smoothed(raw, method.smooth)
                    yield block, method, maps, _matched(maps, masks, valid), spent + ahead + seconds / len(part)

    @contextlib.contextmanager
    def _passes(
        self, x: Tensor, flat: int | None, gamma: float | None, blocks: list[int]
    ) -> Iterator[tuple[SharedPass | None, float]]:
        """A forward pass with the rules, and its seconds; None if nothing is propagated."""
        if flat is None:
            yield None, 0.0
            return
        start = time.perf_counter()
        composite = self.rules(flat) if gamma is None else self.rules(flat, gamma=gamma)
        with shared_pass(self._model, [self.layers[block] for block in blocks], x, composite) as forward:
            yield forward, time.perf_counter() - start

    @property
    def _model(self) -> nn.Module:
        return self.network.model

    def _nothing(self, x: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, Matching]]:
        maps = x.new_full((self.n_clusters, *x.shape[2:]), math.nan)
        return maps, _matched(maps, masks, masks.new_ones(x.shape[2:]))

    def _contexts(self, image: VOCImage, x: Tensor, blocks: set[int]) -> dict[int, LayerContext]:
        found, half = _reached(self._model, {block: self.layers[block] for block in blocks}, x), self.half[image.name]
        thresholds = {name: self.thresholds.get(f"{half} {name}") for name in self.layers.values()}
        return {
            block: LayerContext(found[block], x, self._model, name, self.n_clusters, self.seed, thresholds[name])
            for block, name in self.layers.items()
            if block in found
        }


def _reached(model: nn.Module, layers: dict[int, str], x: Tensor) -> dict[int, Tensor]:
    """Activations at the ends of blocks, (1, C, H', W') each, without blocks that an image is too small for."""
    left = dict(sorted(layers.items()))
    while left:
        try:
            found = activations_of(model, list(left.values()), x)
        except TooSmallError:
            left.popitem()
        else:
            return {block: found[name] for block, name in left.items()}
    return {}


def _timed(context: LayerContext, method: Method, forward: SharedPass | None) -> tuple[Tensor, float]:
    """Heatmaps (K, H, W), and the seconds that they took with all they need; NaN for an image without K clusters."""
    shared, start = 0.0, time.perf_counter()
    try:
        shared, start = context.prepare(method.make), time.perf_counter()
        maps = method.make(context) if forward is None else forward.relevance(context.layer, method.make(context))
    except TooFewClustersError:
        maps = context.x.new_full((context.n_clusters, *context.size), math.nan)
    return maps, shared + time.perf_counter() - start


def _matched(maps: Tensor, masks: Tensor, valid: Tensor) -> dict[str, Matching]:
    """The matching by each score; without pairs where there is nothing to match."""
    if not len(masks) or not bool(torch.isfinite(maps).all()):
        return dict.fromkeys(SCORES, Matching(maps.new_zeros(len(maps), len(masks)), []))
    return {score: match(maps, masks, valid, score) for score in SCORES}


def _learn(
    network: Network, scenes: VOCDataset, layers: dict[int, str], half: dict[str, int], progress: bool
) -> dict[str, Tensor]:
    """Thresholds of the units of layers, as each half of the images takes them: from the other half.

    An empty image of each size tells how many locations there will be. NaN where the other half has none.
    """
    from tqdm.auto import tqdm

    some = {block: name for block, name in layers.items() if block >= FIRST_DISSECTED}
    places = {name: place for place, name in enumerate(scenes.names)}  # each image counts once
    shapes = scenes.shapes
    sizes = Counter((shapes[place], half[name]) for name, place in places.items())
    totals: Counter[tuple[int, int]] = Counter()
    units: dict[int, int] = {}
    for (shape, own), count in sizes.items():
        for block, found in _reached(network.model, some, torch.zeros(1, 3, *shape)).items():
            totals[1 - own, block] += count * found[0, 0].numel()
            units[block] = found.shape[1]
    quantiles = {key: TopQuantile(total, SHARE) for key, total in totals.items()}
    for name, place in tqdm(places.items(), desc="thresholds", unit="images", disable=not progress):
        x = network.prepare(scenes[place].pixels[None])
        for block, found in _reached(network.model, some, x).items():
            quantiles[1 - half[name], block].add(found)
    return {
        f"{own} {some[block]}": quantiles[own, block].thresholds
        if (own, block) in quantiles
        else torch.full((width,), math.nan)
        for block, width in units.items()
        for own in (0, 1)
    }


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _bar(total: int, progress: bool) -> tqdm[NoReturn]:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="objects", unit="results", disable=not progress)
