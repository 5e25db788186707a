"""The 3D image towers, one small file each."""
