"""Files whose examples cannot be collected on this machine."""

from importlib.util import find_spec

collect_ignore = (
    [] if find_spec("triton") else ["medvlp/losses/fused.py", "medvlp/losses/kernels.py"]
)
