"""The axes as evaluation tasks: one small file each."""
