"""Batch norm folded into the convolution before it: the same function with fewer layers."""

from __future__ import annotations

import logging

from torch import nn
from torch.fx.experimental.optimization import fuse

from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of `network` in which each batch norm that follows a convolution alone is part of its weights.

    With the statistics of training fixed, batch norm is a scale and a shift of each channel, so it goes into
    the convolution's weight and bias (Jacob et al., 2018, section 3.2). The network must be in evaluation
    mode. Raises UserError where nothing can be folded.
    """
    before = _count_norms(network)
    try:
        folded = fuse(network)
    except Exception as error:  # tracing a user's own block can fail in any way
        raise UserError(
            "--fold-bn: the network's graph cannot be traced; a forward must not depend on its input's"
            f" values or shapes: {error}"
        ) from error
    after = _count_norms(folded)
    if before == after:
        raise UserError("--fold-bn: the network has no batch norm that directly follows a convolution")
    logger.info("folded %d of %d batch norms into convolutions", before - after, before)
    return folded


def _count_norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
