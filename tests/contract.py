"""What every head must do, whatever its clustering."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from zennit.attribution import Gradient

from zennit_neon import NeuralizedHierarchy, RowNorm, explain
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.captum import NEON
from zennit_neon.composites import Neon

#: Share of the largest number by which answers in a type may differ from those in float64.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def close(found, expected, share=1e-10):
    """Assert that numbers are the same, up to a share of the largest."""
    expected = torch.as_tensor(expected).double()
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(torch.as_tensor(found).double(), expected, rtol=0, atol=share * max(size, 1e-12))


def saved(thing):
    """What torch reads of what it wrote."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=not isinstance(thing, torch.nn.Module))


class HeadContract:
    """Tests of a head: a subclass has a fixture ``head``, with the stiffness set and all clusters as outputs.

    A subclass may have a fixture ``x`` of points (N, d), float64, on both sides of boundaries and of every cluster.
    """

    #: How far from the clusters float32 still has the digits of evidence.
    far = 1e4

    @pytest.fixture
    def x(self, head):
        return torch.tensor(np.random.default_rng(11).normal(size=(12, head.n_features)) + 0.2)

    @pytest.fixture
    def maps(self, head):
        """A location is a point."""
        return torch.tensor(np.random.default_rng(12).normal(size=(2, head.n_features, 3, 2)) + 0.2)

    # evidence

    @pytest.mark.pairwise(1)
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_answers_have_the_type_of_the_points(self, head, x, dtype):
        x = x.to(dtype)
        evidence, exact = head(x), head(x.double())
        assert evidence.dtype == dtype
        assert evidence.shape == (len(x), head.n_clusters)
        close(evidence, exact, TOLERANCE[dtype])
        e = explain(head, x)
        assert e.relevance.dtype == e.evidence.dtype == dtype
        assert e.relevance.shape == x.shape
        assert torch.isfinite(e.relevance).all()

    def test_the_largest_evidence_is_that_of_the_assigned_cluster(self, head, x):
        evidence = head(x)
        e = explain(head, x)
        assert e.positions.tolist() == evidence.argmax(1).tolist()
        close(e.evidence, evidence.amax(1))
        others = evidence.scatter(1, evidence.argmax(1, keepdim=True), -1.0)
        assert (others <= 0).all()
        if head.beta is not None and not head.soft:  # hard clusters: each point belongs to one of them
            assert (evidence.amax(1) > 0).all()

    def test_evidence_has_the_gradient_of_its_numbers(self, head, x):
        assert torch.autograd.gradcheck(head, x[:3].clone().requires_grad_())

    def test_outputs_are_finite_in_float32_far_from_the_clusters(self, head, x):
        far = (x * self.far).float()
        close(head(far), head(far.double()), 1e-4)
        assert torch.isfinite(explain(head, far).relevance).all()

    # relevance

    def test_relevance_sums_to_evidence_where_it_is_said_to(self, head, x):
        for cluster in (None, explain(head, x).labels[1]):
            e = explain(head, x, cluster=cluster)
            scale = float(e.relevance.abs().sum(1).max())
            close(sum(e.through(k) for k in e.labels) / scale, e.relevance / scale)
            if e.conserves:
                assert ((e.relevance.sum(1) - e.evidence).abs() <= 1e-10 * scale).all()
                assert ((e.competitors.sum(1) - e.evidence).abs() <= 1e-10 * scale).all()

    def test_rules_batches_captum_and_all_clusters_at_once_give_the_same(self, head, x):
        e = explain(head, x)
        close(explain(head, x, batch_size=5).relevance, e.relevance)
        like = next(buffer for buffer in head.buffers() if buffer.is_floating_point())  # models get their own precision
        close(explain(head, x, composite=Neon()).relevance, e.relevance, 1e-9 if like.dtype == x.dtype else 1e-5)
        close(NEON(head).attribute(x), e.relevance)
        positive = e.evidence > 0
        with Gradient(head, Neon()) as attributor:
            _, relevance = attributor(x.clone(), positive_evidence())
        with ClusterGradient(head) as attributor:
            evidence, each = attributor(x)
        close(evidence, head(x))
        close(each[range(len(x)), e.positions][positive], e.relevance[positive], 1e-9)
        close(relevance, each.sum(1), 1e-9)

    def test_a_competitor_takes_all(self, head, x):
        first, second = explain(head, x).labels[:2]
        e = explain(head, x, cluster=first, competitor=second)
        if isinstance(head, NeuralizedHierarchy):  # leaves on the other side of a split share what flows there
            close(sum(e.through(k) for k in e.labels), e.relevance)
        else:
            close(e.through(second), e.relevance)
        back = explain(head, x, cluster=second, competitor=first)
        close(back.evidence, -e.evidence)

    # places

    def test_every_location_is_a_point(self, head, maps):
        rows = maps.movedim(1, -1).flatten(0, -2)
        evidence = head(maps)
        assert evidence.shape == (2, head.n_clusters, 3, 2)
        close(evidence.movedim(1, -1).flatten(0, -2), head(rows))
        assert head(maps[..., 0]).shape == (2, head.n_clusters, 3)
        e, flat = explain(head, maps, cluster=None), explain(head, rows)
        assert e.cluster.shape == e.evidence.shape == (2, 3, 2)
        for one, other in ((e.relevance, flat.relevance), (e.competitors, flat.competitors)):
            close(one.movedim(1, -1).flatten(0, -2), other)
        with ClusterGradient(head) as attributor:
            _, each = attributor(maps)
        positive = head(rows).clamp(min=0)
        with Gradient(head, Neon()) as attributor:
            _, by_points = attributor(rows.clone(), positive)
        close(each.sum(1).movedim(1, -1).flatten(0, -2), by_points, 1e-9)

    def test_an_empty_batch_gives_an_empty_result(self, head):
        d, count = head.n_features, head.n_clusters
        assert head(torch.empty(0, d)).shape == (0, count)
        assert head(torch.empty(2, d, 0, 3)).shape == (2, count, 0, 3)
        for options in ({}, {"cluster": explain(head, torch.zeros(1, d)).labels[1]}, {"composite": Neon()}):
            e = explain(head, torch.empty(0, d), **options)
            assert e.relevance.shape == (0, d)
            assert e.evidence.shape == e.cluster.shape == (0,)
            assert e.competitors.shape == (0, count)

    # modes of torch

    @pytest.mark.pairwise(1)
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_modes_of_autograd_do_not_matter(self, head, x, mode):
        expected = explain(head, x)
        with mode():
            assert torch.equal(head(x), head(x.clone()))
            e = explain(head, x)
        assert torch.equal(e.relevance, expected.relevance)
        assert not e.relevance.requires_grad
        assert torch.equal(e.evidence, expected.evidence)

    @pytest.mark.pairwise(1)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_does_not_matter(self, head, x, dtype):
        x = x.float()
        evidence, relevance = head(x), explain(head, x).relevance
        with torch.autocast("cpu", dtype):
            assert torch.equal(head(x), evidence)
            assert torch.equal(explain(head, x).relevance, relevance)

    @pytest.mark.slow
    def test_torch_compile_gives_the_same(self, head, x):
        torch.compiler.reset()
        compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
        close(compiled(x), head(x))

    # a module like any other

    @pytest.mark.pairwise(1)
    @pytest.mark.parametrize(
        "copied",
        [copy.copy, copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head)), saved],
        ids=["copy", "deepcopy", "pickle", "torch.save"],
    )
    def test_copies_compute_the_same(self, head, x, copied):
        explain(head, x)  # what is kept of a call is not copied
        self.assert_same(copied(head), head, x)

    def test_a_state_dict_brings_everything_along(self, head, x):
        other = copy.deepcopy(head)
        for buffer in other.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
        if not head.soft:
            other.beta = None
        assert not torch.allclose(other(x), head(x))
        other.load_state_dict(saved(head.state_dict()))
        self.assert_same(other, head, x)

    def test_casts_keep_the_stiffness(self, head, x):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            cast = copy.deepcopy(head).to(dtype)
            assert cast.beta == head.beta
            assert cast(x.to(dtype)).dtype == dtype
        close(cast(x.float()), head(x), 1e-3)

    def test_a_head_has_buffers_and_no_parameters(self, head):
        assert not list(head.parameters())
        assert list(head.buffers())
        assert not any(buffer.requires_grad for buffer in head.buffers())

    def test_a_head_can_be_built_again(self, head, x):
        if not head.arguments():  # somebody else's, which does not tell
            with pytest.raises(TypeError, match="cannot be changed"):
                head.rebuilt()
            return
        again = head.eval().rebuilt()
        self.assert_same(again, head, x)
        assert not again.training
        assert head.train().rebuilt().training
        chosen = head.rebuilt(clusters=[1, 0])
        assert chosen.clusters.tolist() == [1, 0]
        close(chosen(x), head(x)[:, [1, 0]])
        named = head.rebuilt(labels=[f"cluster {k}" for k in range(head.n_clusters)])
        assert set(explain(named, x).cluster) <= {f"cluster {k}" for k in range(head.n_clusters)}

    def assert_same(self, other, head, x):
        """Assert that two heads give the same numbers."""
        assert type(other) is type(head)
        assert (other.beta, other.soft, other.labels, other.feature_names, other.n_clusters, other.n_features) == (
            head.beta,
            head.soft,
            head.labels,
            head.feature_names,
            head.n_clusters,
            head.n_features,
        )
        assert repr(other.fidelity) == repr(head.fidelity)
        assert torch.equal(other(x), head(x))
        one, two = explain(other, x), explain(head, x)
        assert torch.equal(one.relevance, two.relevance)
        assert torch.equal(one.competitors, two.competitors)

    # calibration

    def test_calibration_is_eq_3_or_a_mean_probability(self, head, x):
        head = copy.deepcopy(head)
        if head.beta is None:  # a threshold in its place
            with pytest.raises(ValueError, match="no stiffness beta to calibrate"):
                head.calibrate(x, **({"probability": 0.9} if head.soft else {}))
            return
        if head.soft:
            assert head.calibrate(x, probability=0.8, batch_size=5) is head
            assert float(head(x).sigmoid().amax(1).mean()) == pytest.approx(0.8, abs=1e-9)
            with pytest.raises(ValueError, match=r"calibrate\(X, probability=0\.9\)"):
                head.calibrate(x)
        else:
            assert head.calibrate(x, batch_size=5) is head
            assert head.beta == pytest.approx(1 / float(head(x).amax(1).mean()), rel=1e-9)
            with pytest.raises(ValueError, match="probability is for soft heads"):
                head.calibrate(x, probability=0.9)
        assert explain(head, x).beta == head.beta
        with pytest.raises(ValueError, match="at least one point"):
            head.calibrate(x[:0], **({"probability": 0.8} if head.soft else {}))

    # what is refused

    @pytest.mark.pairwise(1)
    @pytest.mark.parametrize("ask", [lambda head, x: head(x), explain], ids=["head", "explain"])
    def test_points_that_are_none_are_refused(self, head, x, ask):
        wrong = x.clone()
        wrong[3, -1] = torch.nan
        with pytest.raises(ValueError, match=rf"must be finite, .*first in row 3; features \[{x.shape[1] - 1}\]"):
            ask(head, wrong)
        wrong[3, -1] = torch.inf
        with pytest.raises(ValueError, match="NaN or infinite"):
            ask(head, wrong)
        with pytest.raises(ValueError, match=rf"{x.shape[1] + 1} features|got \(12, {x.shape[1] + 1}\)"):
            ask(head, torch.zeros(12, x.shape[1] + 1))

    def test_only_floating_point_tensors_enter_the_module(self, head, x):
        with pytest.raises(TypeError, match=r"floating point tensor, got torch\.int64"):
            head(x.long())
        with pytest.raises(TypeError, match="x must be a Tensor, got ndarray"):
            head(x.numpy())
        with pytest.raises(ValueError, match=r"got \(3,\)"):
            head(torch.zeros(3))

    def test_too_large_numbers_are_refused(self, head, x):
        if any(isinstance(step, RowNorm) for step in head.steps):
            pytest.skip("a row norm makes any number small")
        with pytest.raises(ValueError, match=r"evidence overflows torch\.float32"):
            head(torch.full((1, head.n_features), 3e38))
