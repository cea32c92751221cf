import pytest
import torch

from workers.engine.model.loading import PatchLinear


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_the_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    kernel = (2, 16, 16)
    convolution = torch.nn.Conv3d(3, 24, kernel, stride=kernel, bias=bias)
    patches = torch.randn(7, 3, *kernel)

    with torch.inference_mode():
        product = PatchLinear(convolution)(patches)
        torch.testing.assert_close(product, convolution(patches).view(-1, 24), rtol=1e-4, atol=1e-5)
    assert PatchLinear(convolution).weight.data_ptr() == convolution.weight.data_ptr()
