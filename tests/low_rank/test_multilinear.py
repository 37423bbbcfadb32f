"""Tucker-2 against its definition: orthonormal factors, HOSVD's bound, HOOI never worse."""

import itertools

import numpy as np
import pytest
import torch

from kdeploy.low_rank.multilinear import mode_spectra, tucker2


@pytest.fixture
def tensor():
    return torch.randn(7, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def together(found):
    return torch.einsum("op,iq,pqk->oik", found.outputs, found.inputs, found.core)


def error(tensor, found):
    return float((tensor - together(found)).square().sum())


def test_full_ranks_are_the_tensor(tensor):
    torch.testing.assert_close(together(tucker2(tensor, 6, 7, iterations=3)), tensor)


def test_without_iterations_it_is_the_truncated_hosvd(tensor):
    array = tensor.numpy()
    outputs = np.linalg.svd(array.reshape(7, -1))[0][:, :4]
    inputs = np.linalg.svd(array.transpose(1, 0, 2).reshape(6, -1))[0][:, :3]
    expected = np.einsum("oik,op,iq,rp,sq->rsk", array, outputs, inputs, outputs, inputs)
    np.testing.assert_allclose(together(tucker2(tensor, 3, 4, iterations=0)), expected, atol=1e-12)


def test_iterations_never_make_the_error_larger(tensor):
    errors = [error(tensor, tucker2(tensor, 2, 3, iterations=n)) for n in (0, 1, 2, 5, 50)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_the_error_is_the_energy_that_the_core_lacks(tensor):
    found = tucker2(tensor, 2, 3, iterations=5)
    lacking = float(tensor.square().sum() - found.core.square().sum())
    assert error(tensor, found) == pytest.approx(lacking)


def test_hosvd_errs_at_most_by_what_both_modes_leave_out(tensor):
    of_inputs, of_outputs = mode_spectra(tensor)
    bound = float(of_inputs[3:].sum() + of_outputs[4:].sum())
    assert error(tensor, tucker2(tensor, 3, 4, iterations=0)) <= bound


def test_the_spectra_are_squared_singular_values_of_the_unfoldings(tensor):
    of_inputs, of_outputs = mode_spectra(tensor)
    array = tensor.numpy()
    np.testing.assert_allclose(
        of_outputs, np.linalg.svd(array.reshape(7, -1), compute_uv=False) ** 2
    )
    unfolding = array.transpose(1, 0, 2).reshape(6, -1)
    np.testing.assert_allclose(of_inputs, np.linalg.svd(unfolding, compute_uv=False) ** 2)


def test_a_tensor_of_low_rank_is_found_exactly():
    numbers = torch.Generator().manual_seed(0)
    core, outputs, inputs = (
        torch.randn(shape, dtype=torch.float64, generator=numbers)
        for shape in ((3, 2, 9), (8, 3), (7, 2))
    )
    tensor = torch.einsum("op,iq,pqk->oik", outputs, inputs, core)
    torch.testing.assert_close(together(tucker2(tensor, 2, 3, iterations=1)), tensor)
