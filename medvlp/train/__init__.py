"""The train room: batch to named losses, the fit, optimiser and checkpoints."""
