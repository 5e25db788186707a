"""What is trained for an evaluation, on top of a bundle's towers."""
