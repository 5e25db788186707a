"""Six axes of robustness, one score each: what stays right when words, pictures or foes change."""
