"""Files whose examples cannot be collected on this machine."""

from importlib.util import find_spec

_OF_TRITON = [
    "medvlp/losses/fused.py",
    "medvlp/losses/kernels.py",
    "video/medvlp_video/soft_dtw/cuda.py",
    "video/medvlp_video/soft_dtw/triton_kernels.py",
]
collect_ignore = [] if find_spec("triton") else _OF_TRITON
