"""What all phantoms share: patients, report grammar, writers and ground-truth tables."""
