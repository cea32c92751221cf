"""The operations that a forward pass is made of: `reference` for any device, `fused` for cards."""
