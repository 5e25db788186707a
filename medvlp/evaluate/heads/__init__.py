"""What is trained for an evaluation: heads on frozen or tuned encoders, one budget for all."""
