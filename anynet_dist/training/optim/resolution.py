"""Progressive resizing: small images first, full ones later."""

from __future__ import annotations

from anynet_dist.config.schema import DataConfig


def train_resolution(config: DataConfig, epoch: int) -> int:
    """Side in pixels of the training images in `epoch` (from 0); `config` must be resolved.

    Grows linearly from data.start_res to data.train_res over the epochs of data.res_ramp, rounded to
    multiples of 32 (or of 4 below 64 pixels), as FFCV's ImageNet recipes do; constant outside of them.
    """
    assert config.train_res is not None
    start, full = config.start_res or config.train_res, config.train_res
    first, last = config.res_ramp
    share = 1.0 if epoch >= last else max(0.0, (epoch - first) / (last - first))
    multiple = 32 if start >= 64 else 4
    side = round((start + share * (full - start)) / multiple) * multiple
    return full if share == 1 else max(start, min(side, full))
