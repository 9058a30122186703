"""Each weighting against its form in the table of conversions, written the other way round."""

import math

import pytest
import torch

from sparring.process import (
    EDM,
    P2,
    SNR,
    VP,
    Constant,
    Debiased,
    EDMWeighting,
    MinSNR,
    RectifiedFlow,
    Sigmoid,
    SNRPlusOne,
    SoftMinSNR,
    TruncatedSNR,
)

T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
ALL = [
    Constant(),
    SNR(),
    SNRPlusOne(),
    MinSNR(),
    SoftMinSNR(),
    TruncatedSNR(),
    Debiased(),
    P2(),
    EDMWeighting(),
    Sigmoid(),
]


def eps_weight(weighting, process):
    """The weight on the eps loss: |x_0 - x_0_pred|^2 = |eps - eps_pred|^2 / SNR."""
    return weighting(process.log_snr(T)) * (process.sigma(T) / process.alpha(T)) ** 2


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()])
def test_weights_on_eps(process):
    snr = (process.alpha(T) / process.sigma(T)) ** 2
    table = {
        SNR(): torch.ones_like(snr),
        MinSNR(gamma=5): torch.minimum(snr, torch.full_like(snr, 5.0)) / snr,
        SoftMinSNR(gamma=5): 5 / (snr + 5),
        TruncatedSNR(): torch.maximum(1 / snr, torch.ones_like(snr)),
        Debiased(): 1 / snr.clamp(max=1000).sqrt(),
        P2(k=1, gamma=1): 1 / (1 + snr),
        P2(k=2, gamma=0.5): 1 / (2 + snr).sqrt(),
        Sigmoid(bias=-2): torch.sigmoid(-2 - snr.log()),
    }
    for weighting, expected in table.items():
        torch.testing.assert_close(eps_weight(weighting, process), expected, rtol=1e-9, atol=0)


def test_constant_and_snr_plus_one():
    log_snr = VP().log_snr(T)
    assert torch.equal(Constant()(log_snr), torch.ones_like(T))
    torch.testing.assert_close(SNRPlusOne()(log_snr), 1 / VP().sigma(T) ** 2)


def test_edm_weight_is_one_over_c_out_squared():
    process = EDM(sigma_data=0.3)
    sigma = process.sigma(T)
    c_out = sigma * 0.3 / (sigma**2 + 0.3**2).sqrt()
    torch.testing.assert_close(EDMWeighting(sigma_data=0.3)(process.log_snr(T)), c_out**-2, rtol=1e-9, atol=0)


def test_sigmoid_is_soft_min_snr():
    log_snr = torch.linspace(-12, 12, 49, dtype=torch.float64)
    torch.testing.assert_close(Sigmoid(bias=math.log(5))(log_snr), SoftMinSNR(gamma=5)(log_snr))


@pytest.mark.parametrize("weighting", ALL, ids=lambda w: type(w).__name__)
def test_finite_over_the_range_of_every_process(weighting):
    log_snr = torch.linspace(-20, 20, 81)
    weight = weighting(log_snr)
    assert weight.dtype == torch.float32
    assert weight.isfinite().all()
    assert (weight >= 0).all()
    assert weighting(torch.tensor([-float("inf")])).isfinite().all()


def test_wrong_settings_are_named():
    for make in (lambda: MinSNR(gamma=0), lambda: SoftMinSNR(gamma=-1), lambda: EDMWeighting(sigma_data=0)):
        with pytest.raises(ValueError, match="must be above 0"):
            make()
