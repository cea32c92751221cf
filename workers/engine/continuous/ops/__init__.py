"""The operations of the forward passes: `reference` in plain torch for any device, `fused` for cards."""
